// What the comparisons with oneDNN share: the command line, the lists of shapes, the lines that say
// on what was measured, and times of candidates that take turns.
#pragma once

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
#include <vector>

namespace peers {

/// One way to compute something, and the column of its time.
struct Candidate {
    size_t column;
    std::function<void()> run;
    double best = std::numeric_limits<double>::infinity();
};

inline double milliseconds(const std::function<void()> &run) {
    const auto start = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
}

/// The time in which so many threads run `work`, each with its own number.
inline double milliseconds_together(size_t threads, const std::function<void(size_t)> &work) {
    return milliseconds([&] {
        std::vector<std::thread> others;
        for (size_t i = 1; i < threads; i++) others.emplace_back(work, i);
        work(0);
        for (std::thread &other : others) other.join();
    });
}

/// The best time of each column, infinite where it has no candidate. The candidates are timed in turn,
/// since a machine's speed changes.
inline std::vector<double> best_times(std::vector<Candidate> candidates, size_t columns, int rounds) {
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
    std::vector<double> best(columns, std::numeric_limits<double>::infinity());
    for (const Candidate &candidate : candidates) {
        double &time = best[candidate.column];
        time = std::min(time, candidate.best);
    }
    return best;
}

inline void fill(float *values, size_t len) {
    for (size_t i = 0; i < len; i++) values[i] = float(int(i * 2654435761u >> 20 & 15) - 7) / 16;
}

/// A tensor of oneDNN's with values.
inline dnnl::memory allocate(const dnnl::memory::desc &desc, const dnnl::engine &engine) {
    dnnl::memory tensor(desc, engine);
    fill(static_cast<float *>(tensor.get_data_handle()), desc.get_size() / sizeof(float));
    return tensor;
}

inline void check(cnnkern_status status) {
    if (status) throw std::runtime_error(cnnkern_last_error());
}

/// A line of a list of benches/shapes.
struct Line {
    std::string name;
    std::vector<long> numbers;
};

inline std::vector<Line> read_lines(const std::string &path, size_t numbers) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path);
    std::vector<Line> lines;
    for (std::string text; std::getline(file, text);) {
        std::istringstream words(text.substr(0, text.find('#')));
        Line line;
        if (!(words >> line.name)) continue;
        for (long number; words >> number;) line.numbers.push_back(number);
        if (!words.eof() || line.numbers.size() != numbers)
            throw std::runtime_error(path + ": " + std::to_string(numbers) + " numbers must follow "
                                     + line.name);
        lines.push_back(line);
    }
    return lines;
}

inline std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.rfind("model name", 0) == 0) return line.substr(line.find(": ") + 2);
    return "unknown processor";
}

/// What the command line asks for: [--layout nchw|nhwc] [--rounds N] SHAPES...
class Setup {
public:
    bool nhwc = false;
    int rounds = 3;
    std::vector<std::string> lists;
    cnnkern_context *context = nullptr;

    Setup(int argc, char **argv) {
        for (int i = 1; i < argc; i++) {
            const std::string argument = argv[i];
            if (argument == "--layout" && i + 1 < argc) nhwc = std::string(argv[++i]) == "nhwc";
            else if (argument == "--rounds" && i + 1 < argc) rounds = std::atoi(argv[++i]);
            else lists.push_back(argument);
        }
        check(cnnkern_context_create(nullptr, 0, &context));
    }
    Setup(const Setup &) = delete;
    Setup &operator=(const Setup &) = delete;
    ~Setup() { cnnkern_context_destroy(context); }

    size_t threads() const { return cnnkern_context_num_threads(context); }
    std::string isa() const { return cnnkern_context_isa(context); }
    cnnkern_layout layout() const { return nhwc ? CNNKERN_LAYOUT_NHWC : CNNKERN_LAYOUT_NCHW; }
    dnnl::memory::format_tag format() const {
        return nhwc ? dnnl::memory::format_tag::nhwc : dnnl::memory::format_tag::nchw;
    }

    /// The first lines of the results.
    void print() const {
        const dnnl_version_t *version = dnnl_version();
        std::printf("# cnnkern %s as %s beside oneDNN %d.%d.%d, %s\n", cnnkern_version(), isa().c_str(),
                    version->major, version->minor, version->patch, nhwc ? "NHWC" : "NCHW");
        std::printf("# %s, %zu threads\n", processor().c_str(), threads());
    }
};

} // namespace peers
