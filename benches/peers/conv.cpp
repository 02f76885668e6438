// cnnkern beside oneDNN: convolutions on the same plain tensors, in one process and in turn.
//
//   conv [--layout nchw|nhwc] [--rounds N] SHAPES...
//
// SHAPES are the lists of benches/shapes. Prints comma-separated values, a line per layer and pass,
// after lines that begin with '#' and say on what they were measured. Every time is the best of some
// runs, in milliseconds:
//
//   plain    oneDNN for who holds plain tensors: the faster of plain activations with weights in its
//            own format, and everything in its own formats, with the reorders to and from them
//   blocked  oneDNN's kernel on its own formats, no reorder counted
//   cnnkern  one call, weights packed in it
//   sums     the same without Winograd's transforms, where that makes a difference
//
// Both may use as many threads: OMP_NUM_THREADS and CNNKERN_NUM_THREADS.

#include "measure.hpp"

#include <unordered_map>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace peers;
using dnnl::algorithm;
using dnnl::memory;
using dnnl::prop_kind;

enum class Pass { forward, backward_data, backward_weights };
constexpr Pass passes[] = {Pass::forward, Pass::backward_data, Pass::backward_weights};

const char *name_of(Pass pass) {
    switch (pass) {
    case Pass::forward: return "forward";
    case Pass::backward_data: return "backward_data";
    default: return "backward_weights";
    }
}

struct Layer {
    std::string name;
    long batch, in_channels, height, width, out_channels, kernel, stride, pad, groups;

    long out(long in) const { return (in + 2 * pad - kernel) / stride + 1; }
    size_t w_len() const { return size_t(out_channels) * (in_channels / groups) * kernel * kernel; }
    size_t y_len() const { return size_t(batch) * out_channels * out(height) * out(width); }
    double gflop() const { return 2e-9 * double(y_len()) * double(w_len() / out_channels); }
};

/// The layers of a list, named after it.
std::vector<Layer> read_layers(const std::string &path) {
    const size_t slash = path.rfind('/') + 1;
    const std::string network = path.substr(slash, path.rfind('.') - slash);
    std::vector<Layer> layers;
    for (const Line &line : read_lines(path, 9)) {
        const std::vector<long> &n = line.numbers;
        layers.push_back({network + "/" + line.name, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]});
    }
    return layers;
}

/// The columns of times.
struct Column {
    enum : size_t { plain, blocked, cnnkern, sums, count };
};

/// x, w, y and the bias of one layer, or their gradients, in plain formats: both libraries work on
/// these, since where a tensor begins in memory makes a difference too.
struct Tensors {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    std::vector<memory> tensors;
    memory bias;

    Tensors(const Setup &setup, const Layer &l) {
        const memory::dims x_dims{l.batch, l.in_channels, l.height, l.width};
        const memory::dims y_dims{l.batch, l.out_channels, l.out(l.height), l.out(l.width)};
        using Tag = memory::format_tag;
        const Tag activations = setup.format();
        memory::dims w_dims{l.out_channels, l.in_channels, l.kernel, l.kernel};
        Tag filters = setup.nhwc ? Tag::ohwi : Tag::oihw;
        if (l.groups > 1) {
            w_dims = {l.groups, l.out_channels / l.groups, l.in_channels / l.groups, l.kernel, l.kernel};
            filters = setup.nhwc ? Tag::gohwi : Tag::goihw;
        }
        constexpr auto f32 = memory::data_type::f32;
        tensors = {allocate({x_dims, f32, activations}, engine), allocate({w_dims, f32, filters}, engine),
                   allocate({y_dims, f32, activations}, engine)};
        bias = allocate({{l.out_channels}, f32, Tag::x}, engine);
    }

    float *operator[](size_t i) const { return static_cast<float *>(tensors[i].get_data_handle()); }
};

/// oneDNN's primitives for one layer, and its tensors in its own formats.
class OneDnn {
public:
    OneDnn(const Tensors &plain, const Layer &layer)
        : layer(layer), engine(plain.engine), tensors(plain.tensors), bias_tensor(plain.bias),
          bias(plain.bias.get_desc()) {
        for (const memory &tensor : tensors) {
            const memory::desc desc = tensor.get_desc();
            this->plain.push_back(desc);
            any.push_back({desc.get_dims(), desc.get_data_type(), memory::format_tag::any});
        }
    }

    void add_candidates(Pass pass, std::vector<Candidate> &candidates) {
        for (const bool own_formats : {false, true}) {
            try {
                add(pass, own_formats, candidates);
            } catch (const dnnl::error &error) {
                std::fprintf(stderr, "%s: oneDNN: %s\n", layer.name.c_str(), error.what());
            }
        }
    }

private:
    /// Of x, w and y, or their gradients.
    using Descs = std::vector<memory::desc>;
    using Arguments = std::unordered_map<int, memory>;

    struct Step {
        dnnl::primitive primitive;
        Arguments arguments;
    };

    void add(Pass pass, bool own_formats, std::vector<Candidate> &candidates) {
        const memory::desc &x = own_formats ? any[0] : plain[0], &y = own_formats ? any[2] : plain[2];
        const memory::dims strides{layer.stride, layer.stride}, dilates{0, 0};
        const memory::dims pads{layer.pad, layer.pad};
        const auto direct = algorithm::convolution_direct;
        const dnnl::convolution_forward::primitive_desc forward(
            engine, prop_kind::forward_training, direct, x, any[1], bias, y, strides, dilates, pads, pads);
        Descs descs;
        dnnl::primitive primitive;
        std::string kernel;
        const auto take = [&](const auto &desc, const memory::desc &x, const memory::desc &w,
                              const memory::desc &y, const dnnl::primitive &made) {
            descs = {x, w, y};
            primitive = made;
            kernel = desc.impl_info_str();
        };
        size_t output;
        if (pass == Pass::forward) {
            take(forward, forward.src_desc(), forward.weights_desc(), forward.dst_desc(),
                 dnnl::convolution_forward(forward));
            output = 2;
        } else if (pass == Pass::backward_data) {
            const dnnl::convolution_backward_data::primitive_desc desc(
                engine, direct, x, any[1], y, strides, dilates, pads, pads, forward);
            take(desc, desc.diff_src_desc(), desc.weights_desc(), desc.diff_dst_desc(),
                 dnnl::convolution_backward_data(desc));
            output = 0;
        } else {
            const dnnl::convolution_backward_weights::primitive_desc desc(
                engine, direct, x, any[1], bias, y, strides, dilates, pads, pads, forward);
            take(desc, desc.src_desc(), desc.diff_weights_desc(), desc.diff_dst_desc(),
                 dnnl::convolution_backward_weights(desc));
            output = 1;
        }
        // Its reference loops, which nobody would use.
        if (kernel.find("ref") != std::string::npos) return;

        std::vector<memory> own = tensors;
        std::vector<Step> steps, after;
        for (size_t i = 0; i < own.size(); i++) {
            if (descs[i] == plain[i]) continue;
            own[i] = allocate(descs[i], engine);
            const memory &from = i == output ? own[i] : tensors[i];
            const memory &to = i == output ? tensors[i] : own[i];
            Step step{dnnl::reorder(from, to), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}};
            (i == output ? after : steps).push_back(step);
        }
        const Step compute{primitive, arguments(pass, own)};
        steps.push_back(compute);
        steps.insert(steps.end(), after.begin(), after.end());
        candidates.push_back({Column::plain, [this, steps] { run(steps); }});
        if (own_formats) {
            const std::vector<Step> alone{compute};
            candidates.push_back({Column::blocked, [this, alone] { run(alone); }});
        }
    }

    Arguments arguments(Pass pass, const std::vector<memory> &own) const {
        switch (pass) {
        case Pass::forward:
            return {{DNNL_ARG_SRC, own[0]}, {DNNL_ARG_WEIGHTS, own[1]}, {DNNL_ARG_BIAS, bias_tensor},
                    {DNNL_ARG_DST, own[2]}};
        case Pass::backward_data:
            return {{DNNL_ARG_DIFF_SRC, own[0]}, {DNNL_ARG_WEIGHTS, own[1]}, {DNNL_ARG_DIFF_DST, own[2]}};
        default:
            return {{DNNL_ARG_SRC, own[0]}, {DNNL_ARG_DIFF_WEIGHTS, own[1]},
                    {DNNL_ARG_DIFF_BIAS, bias_tensor}, {DNNL_ARG_DIFF_DST, own[2]}};
        }
    }

    void run(const std::vector<Step> &steps) {
        for (const Step &step : steps) step.primitive.execute(stream, step.arguments);
        stream.wait();
    }

    Layer layer;
    dnnl::engine engine;
    dnnl::stream stream{engine};
    std::vector<memory> tensors;
    memory bias_tensor;
    Descs plain, any;
    memory::desc bias;
};

cnnkern_pass pass_of(Pass pass) {
    switch (pass) {
    case Pass::forward: return CNNKERN_PASS_FORWARD;
    case Pass::backward_data: return CNNKERN_PASS_BACKWARD_DATA;
    default: return CNNKERN_PASS_BACKWARD_WEIGHTS;
    }
}

/// cnnkern's calls for one layer.
class Cnnkern {
public:
    Cnnkern(const Setup &setup, const Tensors &tensors, const Layer &layer)
        : context(setup.context), x(tensors[0]), w(tensors[1]), y(tensors[2]),
          bias(static_cast<float *>(tensors.bias.get_data_handle())) {
        const Layer &l = layer;
        params = cnnkern_conv2d_params_default(l.batch, l.in_channels, l.height, l.width,
                                               l.out_channels, l.kernel, l.kernel);
        params.stride_height = params.stride_width = l.stride;
        params.pad_top = params.pad_bottom = params.pad_left = params.pad_right = l.pad;
        params.groups = l.groups;
        params.layout = setup.layout();
        params.filter_layout = setup.nhwc ? CNNKERN_FILTER_OHWI : CNNKERN_FILTER_OIHW;
    }

    bool takes_winograd(Pass pass) {
        cnnkern_algorithm algorithm;
        params.algorithm = CNNKERN_ALGORITHM_AUTO;
        check(cnnkern_conv2d_query_f32(context, &params, pass_of(pass), &algorithm, nullptr, nullptr));
        return algorithm == CNNKERN_ALGORITHM_WINOGRAD;
    }

    void run(Pass pass, cnnkern_algorithm algorithm) {
        params.algorithm = algorithm;
        switch (pass) {
        case Pass::forward:
            check(cnnkern_conv2d_forward_f32(context, &params, x, w, bias,
                                             CNNKERN_ACTIVATION_NONE, y));
            break;
        case Pass::backward_data:
            check(cnnkern_conv2d_backward_f32(context, &params, nullptr, w, y,
                                              nullptr, nullptr, x, nullptr, nullptr));
            break;
        default:
            check(cnnkern_conv2d_backward_f32(context, &params, x, nullptr, y,
                                              nullptr, nullptr, nullptr, w, bias));
        }
    }

private:
    cnnkern_context *context;
    cnnkern_conv2d_params params;
    float *x, *w, *y, *bias;
};

#if defined(__x86_64__)
/// Multiply-adds of f32 and nothing else. Returns the number of floating-point operations.
__attribute__((target("avx512f"))) double multiply_add_avx512(long rounds) {
    __m512 sums[24] = {}, factor = _mm512_set1_ps(0.999f), addend = _mm512_set1_ps(1e-6f);
    for (long i = 0; i < rounds; i++)
#pragma GCC unroll 24 // else the sums would stay in memory
        for (__m512 &sum : sums) {
            sum = _mm512_fmadd_ps(sum, factor, addend);
            asm("" : "+v"(sum)); // each its own chain
        }
#pragma GCC unroll 24
    for (__m512 &sum : sums) asm volatile("" ::"v"(sum));
    return 2.0 * 24 * 16 * double(rounds);
}

__attribute__((target("avx2,fma"))) double multiply_add_avx2(long rounds) {
    __m256 sums[12] = {}, factor = _mm256_set1_ps(0.999f), addend = _mm256_set1_ps(1e-6f);
    for (long i = 0; i < rounds; i++)
#pragma GCC unroll 12
        for (__m256 &sum : sums) {
            sum = _mm256_fmadd_ps(sum, factor, addend);
            asm("" : "+x"(sum));
        }
#pragma GCC unroll 12
    for (__m256 &sum : sums) asm volatile("" ::"x"(sum));
    return 2.0 * 12 * 8 * double(rounds);
}
#endif

/// What the processor multiplies and adds at best, in GFLOP/s; 0 where it is not known.
double peak(size_t threads, const std::string &isa) {
#if defined(__x86_64__)
    if (isa == "portable") return 0;
    double best = 0;
    for (int trial = 0; trial < 10; trial++) {
        constexpr long rounds = 2'000'000;
        const auto work = isa == "avx512" ? multiply_add_avx512 : multiply_add_avx2;
        double flops = 0;
        const double time = milliseconds_together(threads, [&](size_t thread) {
            const double done = work(rounds);
            if (thread == 0) flops = done * double(threads);
        });
        best = std::max(best, flops / time / 1e6);
    }
    return best;
#else
    (void)threads;
    (void)isa;
    return 0;
#endif
}

void compare(const Setup &setup, const Layer &layer) {
    const Tensors tensors(setup, layer);
    OneDnn onednn(tensors, layer);
    Cnnkern cnnkern(setup, tensors, layer);
    for (const Pass pass : passes) {
        std::vector<Candidate> candidates;
        onednn.add_candidates(pass, candidates);
        candidates.push_back({Column::cnnkern, [&] { cnnkern.run(pass, CNNKERN_ALGORITHM_AUTO); }});
        const bool winograd = cnnkern.takes_winograd(pass);
        if (winograd)
            candidates.push_back({Column::sums, [&] { cnnkern.run(pass, CNNKERN_ALGORITHM_GEMM); }});
        const std::vector<double> best = best_times(candidates, Column::count, setup.rounds);
        std::printf("%s,%s,%.4f,%.4f,%.4f,%.4f,%.4f\n", layer.name.c_str(), name_of(pass), layer.gflop(),
                    best[Column::plain], best[Column::blocked], best[Column::cnnkern],
                    best[winograd ? Column::sums : Column::cnnkern]);
        std::fflush(stdout);
    }
}

} // namespace

int main(int argc, char **argv) try {
    const Setup setup(argc, argv);
    setup.print();
    std::printf("# peak %.1f GFLOP/s\n", peak(setup.threads(), setup.isa()));
    std::printf("layer,pass,gflop,plain,blocked,cnnkern,sums\n");
    for (const std::string &list : setup.lists)
        for (const Layer &layer : read_layers(list)) compare(setup, layer);
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
