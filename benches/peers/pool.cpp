// cnnkern beside oneDNN: max-pooling and average-pooling on the same plain tensors, in one process and
// in turn.
//
//   pool [--layout nchw|nhwc] [--rounds N] SHAPES...
//
// SHAPES are lists like benches/shapes/pool.txt. Prints comma-separated values, a line per layer and
// pass, after lines that begin with '#' and say on what they were measured. Both libraries pool as
// training needs it: max-pooling keeps where the maxima are, average-pooling does not count padding.
//
//   gbyte    what a pass must read or write, each byte once: x, y and the places of the maxima, or
//            their gradients and those places
//   plain    oneDNN's best of some runs, in milliseconds
//   cnnkern  cnnkern's
//
// Both may use as many threads: OMP_NUM_THREADS and CNNKERN_NUM_THREADS.

#include "measure.hpp"

#include <cstdint>
#include <cstring>
#include <unordered_map>

namespace {

using namespace peers;
using dnnl::algorithm;
using dnnl::memory;

/// The columns of times.
struct Column {
    enum : size_t { plain, cnnkern, count };
};

struct Layer {
    std::string name;
    long batch, channels, height, width, kernel, stride, pad;

    long out(long in) const { return (in + 2 * pad - kernel) / stride + 1; }
    memory::dims x_dims() const { return {batch, channels, height, width}; }
    memory::dims y_dims() const { return {batch, channels, out(height), out(width)}; }
    size_t x_len() const { return size_t(batch) * channels * height * width; }
    size_t y_len() const { return size_t(batch) * channels * out(height) * out(width); }
    /// Of a maximum's place: it must count the cells of a window.
    size_t place_bytes() const { return kernel * kernel <= 256 ? sizeof(uint8_t) : sizeof(int32_t); }
};

std::vector<Layer> read_layers(const std::string &path) {
    std::vector<Layer> layers;
    for (const Line &line : read_lines(path, 7)) {
        const std::vector<long> &n = line.numbers;
        layers.push_back({line.name, n[0], n[1], n[2], n[3], n[4], n[5], n[6]});
    }
    return layers;
}

/// x and y, which a backward pass takes for their gradients.
struct Tensors {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    memory x, y;

    Tensors(const Setup &setup, const Layer &layer)
        : x(allocate({layer.x_dims(), memory::data_type::f32, setup.format()}, engine)),
          y(allocate({layer.y_dims(), memory::data_type::f32, setup.format()}, engine)) {}
};

/// oneDNN's primitives for one layer.
class OneDnn {
public:
    OneDnn(const Tensors &tensors, const Layer &layer, bool maximum) {
        const auto kind = maximum ? algorithm::pooling_max : algorithm::pooling_avg_exclude_padding;
        const memory::desc x = tensors.x.get_desc(), y = tensors.y.get_desc();
        const memory::dims strides{layer.stride, layer.stride}, window{layer.kernel, layer.kernel};
        const memory::dims dilates{0, 0}, pads{layer.pad, layer.pad};
        const dnnl::pooling_forward::primitive_desc forward_desc(
            tensors.engine, dnnl::prop_kind::forward_training, kind, x, y, strides, window, dilates,
            pads, pads);
        const dnnl::pooling_backward::primitive_desc backward_desc(
            tensors.engine, kind, x, y, strides, window, dilates, pads, pads, forward_desc);
        forward = dnnl::pooling_forward(forward_desc);
        backward = dnnl::pooling_backward(backward_desc);
        forward_arguments = {{DNNL_ARG_SRC, tensors.x}, {DNNL_ARG_DST, tensors.y}};
        backward_arguments = {{DNNL_ARG_DIFF_SRC, tensors.x}, {DNNL_ARG_DIFF_DST, tensors.y}};
        if (maximum) {
            const memory places(forward_desc.workspace_desc(), tensors.engine);
            forward_arguments[DNNL_ARG_WORKSPACE] = backward_arguments[DNNL_ARG_WORKSPACE] = places;
        }
        stream = dnnl::stream(tensors.engine);
    }

    void run(bool is_forward) {
        if (is_forward) forward.execute(stream, forward_arguments);
        else backward.execute(stream, backward_arguments);
        stream.wait();
    }

private:
    dnnl::stream stream;
    dnnl::primitive forward, backward;
    std::unordered_map<int, memory> forward_arguments, backward_arguments;
};

/// cnnkern's calls for one layer.
class Cnnkern {
public:
    Cnnkern(const Setup &setup, const Tensors &tensors, const Layer &layer, bool maximum)
        : context(setup.context), maximum(maximum),
          x(static_cast<float *>(tensors.x.get_data_handle())),
          y(static_cast<float *>(tensors.y.get_data_handle())),
          places(layer.y_len() * layer.place_bytes()) {
        const Layer &l = layer;
        params = cnnkern_pool2d_params_default(l.batch, l.channels, l.height, l.width, l.kernel, l.kernel);
        params.stride_height = params.stride_width = l.stride;
        params.pad_top = params.pad_bottom = params.pad_left = params.pad_right = l.pad;
        params.layout = setup.layout();
        params.argmax_type = l.place_bytes() == 1 ? CNNKERN_ARGMAX_U8 : CNNKERN_ARGMAX_I32;
    }

    void run(bool is_forward) {
        void *argmax = places.data();
        if (maximum && is_forward) check(cnnkern_maxpool2d_forward_f32(context, &params, x, y, argmax));
        else if (maximum) check(cnnkern_maxpool2d_backward_f32(context, &params, y, argmax, x));
        else if (is_forward) check(cnnkern_avgpool2d_forward_f32(context, &params, x, y));
        else check(cnnkern_avgpool2d_backward_f32(context, &params, y, x));
    }

private:
    cnnkern_context *context;
    cnnkern_pool2d_params params;
    bool maximum;
    float *x, *y;
    std::vector<uint8_t> places;
};

/// What the machine copies at best, in GB/s read and written, of blocks larger than most caches.
double copy_rate(size_t threads) {
    const size_t part = (size_t(256) << 20) / threads;
    std::vector<uint8_t> from(part * threads, 1), to(part * threads, 2);
    double best = 0;
    for (int trial = 0; trial < 10; trial++) {
        const double time = milliseconds_together(threads, [&](size_t thread) {
            std::memcpy(&to[thread * part], &from[thread * part], part);
        });
        best = std::max(best, 2 * double(to.size()) / time / 1e6);
    }
    return best;
}

void compare(const Setup &setup, const Layer &layer) {
    const Tensors tensors(setup, layer);
    for (const bool maximum : {true, false}) {
        OneDnn onednn(tensors, layer, maximum);
        Cnnkern cnnkern(setup, tensors, layer, maximum);
        const size_t bytes = (layer.x_len() + layer.y_len()) * sizeof(float)
            + (maximum ? layer.y_len() * layer.place_bytes() : 0);
        // Forward first, since it finds the places that backward reads.
        for (const bool is_forward : {true, false}) {
            const std::vector<Candidate> candidates{{Column::plain, [&] { onednn.run(is_forward); }},
                                                    {Column::cnnkern, [&] { cnnkern.run(is_forward); }}};
            const std::vector<double> best = best_times(candidates, Column::count, setup.rounds);
            std::printf("%s,%s_%s,%.6f,%.4f,%.4f\n", layer.name.c_str(), maximum ? "max" : "avg",
                        is_forward ? "forward" : "backward", 1e-9 * double(bytes), best[Column::plain],
                        best[Column::cnnkern]);
            std::fflush(stdout);
        }
    }
}

} // namespace

int main(int argc, char **argv) try {
    const Setup setup(argc, argv);
    setup.print();
    std::printf("# copy %.1f GB/s\n", copy_rate(setup.threads()));
    std::printf("layer,pass,gbyte,plain,cnnkern\n");
    for (const std::string &list : setup.lists)
        for (const Layer &layer : read_layers(list)) compare(setup, layer);
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
