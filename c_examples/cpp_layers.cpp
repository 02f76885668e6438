// A thin C++17 wrapper: contexts and layers that free themselves, tensors in std::vector, and
// exceptions in place of statuses. Fits a small network to a target by gradient descent.
#include <cnnkern.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

class Error : public std::runtime_error {
public:
    explicit Error(cnnkern_status status)
        : std::runtime_error(std::string(cnnkern_status_name(status)) + ": " +
                             cnnkern_last_error()),
          status_(status)
    {
    }

    cnnkern_status status() const { return status_; }

private:
    cnnkern_status status_;
};

void check(cnnkern_status status)
{
    if (status != CNNKERN_STATUS_OK) {
        throw Error(status);
    }
}

class Context {
public:
    explicit Context(std::size_t num_threads = 0)
    {
        cnnkern_context_options options{};
        options.num_threads = num_threads;
        cnnkern_context *context = nullptr;
        check(cnnkern_context_create(&options, sizeof options, &context));
        context_.reset(context);
    }

    cnnkern_context *get() const { return context_.get(); }

private:
    struct Destroy {
        void operator()(cnnkern_context *context) const { cnnkern_context_destroy(context); }
    };
    std::unique_ptr<cnnkern_context, Destroy> context_;
};

using Tensor = std::vector<float>;

// A convolution with bias and activation, and the gradients of its weights.
class Convolution {
public:
    Convolution(const Context &context, const cnnkern_conv2d_params &params,
                cnnkern_activation activation, std::mt19937 &random)
        : context_(context), params_(params), activation_(activation)
    {
        std::size_t out_height = 0, out_width = 0;
        check(cnnkern_conv2d_output_size(&params_, &out_height, &out_width));
        const std::size_t fan_in =
            params_.in_channels / params_.groups * params_.kernel_height * params_.kernel_width;
        const float limit = std::sqrt(1.0f / static_cast<float>(fan_in));
        std::uniform_real_distribution<float> uniform(-limit, limit);
        weights_.resize(params_.out_channels * fan_in);
        for (float &weight : weights_) {
            weight = uniform(random);
        }
        bias_.resize(params_.out_channels);
        weights_gradient_.resize(weights_.size());
        bias_gradient_.resize(bias_.size());
        y_.resize(params_.batch * params_.out_channels * out_height * out_width);
        dx_.resize(params_.batch * params_.in_channels * params_.in_height * params_.in_width);
    }

    const Tensor &forward(const Tensor &x)
    {
        x_ = x;
        check(cnnkern_conv2d_forward_f32(context_.get(), &params_, x_.data(), weights_.data(),
                                         bias_.data(), activation_, y_.data()));
        return y_;
    }

    const Tensor &backward(const Tensor &dy)
    {
        const float *relu_output = activation_ == CNNKERN_ACTIVATION_RELU ? y_.data() : nullptr;
        check(cnnkern_conv2d_backward_f32(context_.get(), &params_, x_.data(), weights_.data(),
                                          dy.data(), relu_output, nullptr, dx_.data(),
                                          weights_gradient_.data(), bias_gradient_.data()));
        return dx_;
    }

    void descend(float rate)
    {
        for (std::size_t i = 0; i < weights_.size(); ++i) {
            weights_[i] -= rate * weights_gradient_[i];
        }
        for (std::size_t i = 0; i < bias_.size(); ++i) {
            bias_[i] -= rate * bias_gradient_[i];
        }
    }

private:
    const Context &context_;
    cnnkern_conv2d_params params_;
    cnnkern_activation activation_;
    Tensor weights_, bias_, weights_gradient_, bias_gradient_, x_, y_, dx_;
};

class MaxPool {
public:
    MaxPool(const Context &context, const cnnkern_pool2d_params &params)
        : context_(context), params_(params)
    {
        params_.argmax_type = CNNKERN_ARGMAX_U8;
        std::size_t out_height = 0, out_width = 0;
        check(cnnkern_pool2d_output_size(&params_, &out_height, &out_width));
        y_.resize(params_.batch * params_.channels * out_height * out_width);
        argmax_.resize(y_.size());
        dx_.resize(params_.batch * params_.channels * params_.in_height * params_.in_width);
    }

    const Tensor &forward(const Tensor &x)
    {
        check(cnnkern_maxpool2d_forward_f32(context_.get(), &params_, x.data(), y_.data(),
                                            argmax_.data()));
        return y_;
    }

    const Tensor &backward(const Tensor &dy)
    {
        check(cnnkern_maxpool2d_backward_f32(context_.get(), &params_, dy.data(), argmax_.data(),
                                             dx_.data()));
        return dx_;
    }

private:
    const Context &context_;
    cnnkern_pool2d_params params_;
    std::vector<std::uint8_t> argmax_;
    Tensor y_, dx_;
};

void expect(bool condition, const std::string &message)
{
    if (!condition) {
        throw std::runtime_error(message);
    }
}

// Two convolutions learn to give random targets: they have the weights to remember them.
void learn()
{
    constexpr std::size_t batch = 4, size = 12, channels = 8, steps = 200;
    const Context context;
    std::mt19937 random(1);

    auto params = cnnkern_conv2d_params_default(batch, 3, size, size, channels, 3, 3);
    params.pad_top = params.pad_bottom = params.pad_left = params.pad_right = 1;
    Convolution first(context, params, CNNKERN_ACTIVATION_RELU, random);
    MaxPool pool(context, cnnkern_pool2d_params_default(batch, channels, size, size, 2, 2));
    Convolution second(
        context, cnnkern_conv2d_params_default(batch, channels, size / 2, size / 2, 2, 3, 3),
        CNNKERN_ACTIVATION_NONE, random);

    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    Tensor x(batch * 3 * size * size), target(batch * 2 * 4 * 4), dy(target.size());
    for (float &value : x) {
        value = uniform(random);
    }
    for (float &value : target) {
        value = uniform(random);
    }

    double first_loss = 0.0, loss = 0.0;
    for (std::size_t step = 0; step < steps; ++step) {
        const Tensor &y = second.forward(pool.forward(first.forward(x)));
        loss = 0.0;
        for (std::size_t i = 0; i < y.size(); ++i) {
            const float difference = y[i] - target[i];
            loss += 0.5 * difference * difference / batch;
            dy[i] = difference / batch;
        }
        first_loss = step == 0 ? loss : first_loss;
        first.backward(pool.backward(second.backward(dy)));
        first.descend(0.01f);
        second.descend(0.01f);
    }
    std::printf("loss %.4f after %zu steps, %.4f at first\n", loss, steps, first_loss);
    expect(loss < first_loss / 10, "the loss did not fall to a tenth");
}

// A layer that cannot be throws as it is made, and leaks nothing.
void refuse()
{
    const Context context(1);
    std::mt19937 random(1);
    try {
        // The 9x9 kernel is larger than the 5x5 image.
        Convolution(context, cnnkern_conv2d_params_default(1, 1, 5, 5, 1, 9, 9),
                    CNNKERN_ACTIVATION_NONE, random);
    } catch (const Error &error) {
        expect(error.status() == CNNKERN_STATUS_INVALID_ARGUMENT, error.what());
        std::printf("refused: %s\n", error.what());
        return;
    }
    throw std::runtime_error("a kernel larger than its image was not refused");
}

int main()
{
    try {
        learn();
        refuse();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "cpp_layers: %s\n", error.what());
        return EXIT_FAILURE;
    }
    std::puts("cpp_layers: ok");
    return EXIT_SUCCESS;
}
