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

#include <cnnkern.h>
#include <dnnl.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

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
    size_t x_len() const { return size_t(batch) * in_channels * height * width; }
    size_t w_len() const { return size_t(out_channels) * (in_channels / groups) * kernel * kernel; }
    size_t y_len() const { return size_t(batch) * out_channels * out(height) * out(width); }
    double gflop() const { return 2e-9 * double(y_len()) * double(w_len() / out_channels); }
};

/// The layers of a list, named after it.
std::vector<Layer> read_layers(const std::string &path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path);
    const size_t slash = path.rfind('/') + 1;
    const std::string network = path.substr(slash, path.rfind('.') - slash);
    std::vector<Layer> layers;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line.substr(0, line.find('#')));
        Layer l;
        if (!(words >> l.name)) continue;
        words >> l.batch >> l.in_channels >> l.height >> l.width >> l.out_channels >> l.kernel
            >> l.stride >> l.pad >> l.groups;
        if (!words) throw std::runtime_error(path + ": nine numbers must follow " + l.name);
        l.name = network + "/" + l.name;
        layers.push_back(l);
    }
    return layers;
}

void fill(float *values, size_t len) {
    for (size_t i = 0; i < len; i++) values[i] = float(int(i * 2654435761u >> 20 & 15) - 7) / 16;
}

/// One way to compute a pass.
struct Candidate {
    enum class Kind { plain, blocked, cnnkern, sums } kind;
    std::function<void()> run;
    double best = std::numeric_limits<double>::infinity();
};

double milliseconds(const std::function<void()> &run) {
    const auto start = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
}

/// Times the candidates in turn, since a machine's speed changes.
void measure(std::vector<Candidate> &candidates, int rounds) {
    constexpr double enough = 20;
    for (int round = 0; round < rounds; round++) {
        for (Candidate &candidate : candidates) {
            candidate.run();
            double total = 0;
            for (int runs = 0; runs < 2 || total < enough; runs++) {
                const double time = milliseconds(candidate.run);
                candidate.best = std::min(candidate.best, time);
                total += time;
            }
        }
    }
}

/// oneDNN's tensors and primitives for one layer.
class OneDnn {
public:
    OneDnn(const Layer &layer, bool nhwc) : layer(layer) {
        const Layer &l = layer;
        const memory::dims x_dims{l.batch, l.in_channels, l.height, l.width};
        const memory::dims y_dims{l.batch, l.out_channels, l.out(l.height), l.out(l.width)};
        using Tag = memory::format_tag;
        const Tag activations = nhwc ? Tag::nhwc : Tag::nchw;
        memory::dims w_dims{l.out_channels, l.in_channels, l.kernel, l.kernel};
        Tag filters = nhwc ? Tag::ohwi : Tag::oihw;
        if (l.groups > 1) {
            w_dims = {l.groups, l.out_channels / l.groups, l.in_channels / l.groups, l.kernel, l.kernel};
            filters = nhwc ? Tag::gohwi : Tag::goihw;
        }
        constexpr auto f32 = memory::data_type::f32;
        plain = {{x_dims, f32, activations}, {w_dims, f32, filters}, {y_dims, f32, activations}};
        any = {{x_dims, f32, Tag::any}, {w_dims, f32, Tag::any}, {y_dims, f32, Tag::any}};
        bias = memory::desc({l.out_channels}, f32, Tag::x);
        for (const memory::desc &desc : plain) tensors.push_back(allocate(desc));
        bias_tensor = allocate(bias);
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

    memory allocate(const memory::desc &desc) {
        memory tensor(desc, engine);
        fill(static_cast<float *>(tensor.get_data_handle()), desc.get_size() / sizeof(float));
        return tensor;
    }

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
            own[i] = allocate(descs[i]);
            const memory &from = i == output ? own[i] : tensors[i];
            const memory &to = i == output ? tensors[i] : own[i];
            Step step{dnnl::reorder(from, to), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}};
            (i == output ? after : steps).push_back(step);
        }
        const Step compute{primitive, arguments(pass, own)};
        steps.push_back(compute);
        steps.insert(steps.end(), after.begin(), after.end());
        candidates.push_back({Candidate::Kind::plain, [this, steps] { run(steps); }});
        if (own_formats) {
            const std::vector<Step> alone{compute};
            candidates.push_back({Candidate::Kind::blocked, [this, alone] { run(alone); }});
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
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    Descs plain, any;
    memory::desc bias;
    std::vector<memory> tensors;
    memory bias_tensor;
};

cnnkern_pass pass_of(Pass pass) {
    switch (pass) {
    case Pass::forward: return CNNKERN_PASS_FORWARD;
    case Pass::backward_data: return CNNKERN_PASS_BACKWARD_DATA;
    default: return CNNKERN_PASS_BACKWARD_WEIGHTS;
    }
}

/// cnnkern's tensors for one layer.
class Cnnkern {
public:
    Cnnkern(cnnkern_context *context, const Layer &layer, bool nhwc)
        : context(context), x(layer.x_len()), w(layer.w_len()), y(layer.y_len()),
          bias(layer.out_channels) {
        const Layer &l = layer;
        params = cnnkern_conv2d_params_default(l.batch, l.in_channels, l.height, l.width,
                                               l.out_channels, l.kernel, l.kernel);
        params.stride_height = params.stride_width = l.stride;
        params.pad_top = params.pad_bottom = params.pad_left = params.pad_right = l.pad;
        params.groups = l.groups;
        params.layout = nhwc ? CNNKERN_LAYOUT_NHWC : CNNKERN_LAYOUT_NCHW;
        params.filter_layout = nhwc ? CNNKERN_FILTER_OHWI : CNNKERN_FILTER_OIHW;
        for (std::vector<float> *tensor : {&x, &w, &y}) fill(tensor->data(), tensor->size());
    }

    bool takes_winograd(Pass pass) {
        cnnkern_algorithm algorithm;
        params.algorithm = CNNKERN_ALGORITHM_AUTO;
        if (cnnkern_conv2d_query_f32(context, &params, pass_of(pass), &algorithm, nullptr, nullptr))
            throw std::runtime_error(cnnkern_last_error());
        return algorithm == CNNKERN_ALGORITHM_WINOGRAD;
    }

    void run(Pass pass, cnnkern_algorithm algorithm) {
        cnnkern_status status;
        params.algorithm = algorithm;
        switch (pass) {
        case Pass::forward:
            status = cnnkern_conv2d_forward_f32(context, &params, x.data(), w.data(), bias.data(),
                                                CNNKERN_ACTIVATION_NONE, y.data());
            break;
        case Pass::backward_data:
            status = cnnkern_conv2d_backward_f32(context, &params, nullptr, w.data(), y.data(),
                                                 nullptr, nullptr, x.data(), nullptr, nullptr);
            break;
        default:
            status = cnnkern_conv2d_backward_f32(context, &params, x.data(), nullptr, y.data(),
                                                 nullptr, nullptr, nullptr, w.data(), bias.data());
        }
        if (status) throw std::runtime_error(cnnkern_last_error());
    }

private:
    cnnkern_context *context;
    cnnkern_conv2d_params params;
    std::vector<float> x, w, y, bias;
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
        const double time = milliseconds([&] {
            std::vector<std::thread> others;
            for (size_t i = 1; i < threads; i++) others.emplace_back([&] { work(rounds); });
            flops = work(rounds) * double(threads);
            for (std::thread &other : others) other.join();
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

std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.rfind("model name", 0) == 0) return line.substr(line.find(": ") + 2);
    return "unknown processor";
}

void compare(cnnkern_context *context, const Layer &layer, bool nhwc, int rounds) {
    OneDnn onednn(layer, nhwc);
    Cnnkern cnnkern(context, layer, nhwc);
    for (const Pass pass : passes) {
        std::vector<Candidate> candidates;
        onednn.add_candidates(pass, candidates);
        candidates.push_back(
            {Candidate::Kind::cnnkern, [&] { cnnkern.run(pass, CNNKERN_ALGORITHM_AUTO); }});
        const bool winograd = cnnkern.takes_winograd(pass);
        if (winograd)
            candidates.push_back(
                {Candidate::Kind::sums, [&] { cnnkern.run(pass, CNNKERN_ALGORITHM_GEMM); }});
        measure(candidates, rounds);
        double best[4];
        std::fill(std::begin(best), std::end(best), std::numeric_limits<double>::infinity());
        for (const Candidate &candidate : candidates) {
            double &time = best[int(candidate.kind)];
            time = std::min(time, candidate.best);
        }
        std::printf("%s,%s,%.4f,%.4f,%.4f,%.4f,%.4f\n", layer.name.c_str(), name_of(pass),
                    layer.gflop(), best[0], best[1], best[2], winograd ? best[3] : best[2]);
        std::fflush(stdout);
    }
}

} // namespace

int main(int argc, char **argv) try {
    bool nhwc = false;
    int rounds = 3;
    std::vector<std::string> lists;
    for (int i = 1; i < argc; i++) {
        const std::string argument = argv[i];
        if (argument == "--layout" && i + 1 < argc) nhwc = std::string(argv[++i]) == "nhwc";
        else if (argument == "--rounds" && i + 1 < argc) rounds = std::atoi(argv[++i]);
        else lists.push_back(argument);
    }
    cnnkern_context *context = nullptr;
    if (cnnkern_context_create(nullptr, 0, &context)) throw std::runtime_error(cnnkern_last_error());
    const size_t threads = cnnkern_context_num_threads(context);
    const std::string isa = cnnkern_context_isa(context);
    const dnnl_version_t *version = dnnl_version();
    std::printf("# cnnkern %s as %s beside oneDNN %d.%d.%d, %s\n", cnnkern_version(), isa.c_str(),
                version->major, version->minor, version->patch, nhwc ? "NHWC" : "NCHW");
    std::printf("# %s, %zu threads\n", processor().c_str(), threads);
    std::printf("# peak %.1f GFLOP/s\n", peak(threads, isa));
    std::printf("layer,pass,gflop,plain,blocked,cnnkern,sums\n");
    for (const std::string &list : lists)
        for (const Layer &layer : read_layers(list)) compare(context, layer, nhwc, rounds);
    cnnkern_context_destroy(context);
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
