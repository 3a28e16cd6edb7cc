// A small coverage-guided fuzzer for machines without libFuzzer: the same target, any C++ compiler.
//
//     fuzz_plan [--seed N] [--runs N] [--seconds N] FILE_OR_DIRECTORY...
//
// Files are the first inputs; with --runs 0 they are only tried. Then inputs are changed at random and tried; one that
// reaches an edge of the program that none before it reached is kept and changed in its turn. The same seed, files
// and --runs give the same inputs. GCC reports edges to __sanitizer_cov_trace_pc when the target is compiled with
// -fsanitize-coverage=trace-pc; without it everything is kept that the files hold, and nothing else. An input that
// crashes, or that takes the processor longer than SLOW_SECONDS for each MAX_BYTES begun, is left in crash.bin.
#include <algorithm>
#include <cctype>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <sys/time.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t EDGES = 1 << 16, MAX_BYTES = 1 << 16;
constexpr time_t SLOW_SECONDS = 10;
constexpr const char* CRASH = "crash.bin";

std::uint8_t reached[EDGES], known[EDGES];
const Bytes* current = nullptr;

// Only calls that a signal handler may make.
void keep_crash() {
    if (current == nullptr) return;
    std::FILE* file = std::fopen(CRASH, "wb");
    if (file == nullptr) return;
    std::fwrite(current->data(), 1, current->size(), file);
    std::fclose(file);
}

void on_signal(int number) {
    keep_crash();
    std::signal(number, SIG_DFL);
    std::raise(number);
}

struct Random {
    std::mt19937_64 engine;

    std::size_t below(std::size_t limit) { return static_cast<std::size_t>(engine() % limit); }
};

struct Part {
    std::size_t begin, size;
};

bool in_number(std::uint8_t byte) { return std::isdigit(byte) || byte == '-' || byte == '+' || byte == '.' || byte == 'e'; }

Part any_part(const Bytes& bytes, Random& random) {
    const std::size_t begin = random.below(bytes.size());
    return {begin, 1 + random.below(std::min<std::size_t>(bytes.size() - begin, 64))};
}

// The number or the string at a random place, if there is one; otherwise any part.
Part any_token(const Bytes& bytes, Random& random) {
    std::size_t begin = random.below(bytes.size()), end = begin;
    if (in_number(bytes[begin])) {
        while (begin > 0 && in_number(bytes[begin - 1])) --begin;
        while (end < bytes.size() && in_number(bytes[end])) ++end;
        return {begin, end - begin};
    }
    while (begin > 0 && bytes[begin] != '"') --begin;
    end = begin + 1;
    while (end < bytes.size() && bytes[end] != '"') ++end;
    if (bytes[begin] != '"' || end == bytes.size() || end - begin > 100) return any_part(bytes, random);
    return {begin, end + 1 - begin};
}

void replace(Bytes& bytes, Part part, const Bytes& by) {
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(part.begin);
    const auto next = bytes.erase(at, at + static_cast<std::ptrdiff_t>(part.size));
    bytes.insert(next, by.begin(), by.end());
}

Bytes copy_of(const Bytes& bytes, Part part) {
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(part.begin);
    return Bytes(at, at + static_cast<std::ptrdiff_t>(part.size));
}

const char* const INTERESTING[] = {"0", "1", "-1", "2", "64", "65536", "281474976710656", "4294967296",
                                   "9223372036854775807", "18446744073709551615", "-9223372036854775808", "1e308",
                                   "0.5", "null", "true", "\"\"", "[]", "{}", "[[]]", "\"x\"", "\"../x\"", "\"\\ud800\""};

void mutate(Bytes& bytes, const std::vector<Bytes>& pool, Random& random) {
    if (bytes.empty()) bytes.push_back('{');
    switch (random.below(8)) {
        case 0: bytes[random.below(bytes.size())] ^= static_cast<std::uint8_t>(1u << random.below(8)); break;
        case 1: bytes[random.below(bytes.size())] = static_cast<std::uint8_t>(random.below(256)); break;
        case 2: replace(bytes, any_part(bytes, random), {}); break;
        case 3: {
            const Part part = any_part(bytes, random);
            replace(bytes, {part.begin, 0}, copy_of(bytes, part));
            break;
        }
        case 4: {
            const std::string text = INTERESTING[random.below(std::size(INTERESTING))];
            replace(bytes, any_token(bytes, random), Bytes(text.begin(), text.end()));
            break;
        }
        case 5: {  // a token in the place of another
            const Bytes token = copy_of(bytes, any_token(bytes, random));
            replace(bytes, any_token(bytes, random), token);
            break;
        }
        case 6: {  // a part of another input
            const Bytes& other = pool[random.below(pool.size())];
            if (!other.empty()) replace(bytes, any_part(bytes, random), copy_of(other, any_part(other, random)));
            break;
        }
        default: {  // two tokens exchanged
            const Part one = any_token(bytes, random), two = any_token(bytes, random);
            if (one.begin + one.size <= two.begin) {
                const Bytes first = copy_of(bytes, one), second = copy_of(bytes, two);
                replace(bytes, two, first);
                replace(bytes, one, second);
            }
        }
    }
    if (bytes.size() > MAX_BYTES) bytes.resize(MAX_BYTES);
}

// 0: no limit. Not of time: the machine may have other things to do.
void limit_processor_time(time_t seconds) {
    const itimerval timer{{0, 0}, {seconds, 0}};
    setitimer(ITIMER_PROF, &timer, nullptr);
}

// Whether the input reached an edge that none before it reached.
bool is_news(const Bytes& bytes) {
    std::memset(reached, 0, sizeof reached);
    current = &bytes;
    // Some seeds are megabytes: a reader that is linear, but not optimised, needs seconds for each on a slow machine.
    limit_processor_time(SLOW_SECONDS * static_cast<time_t>(1 + bytes.size() / MAX_BYTES));
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    limit_processor_time(0);
    current = nullptr;
    bool news = false;
    for (std::size_t edge = 0; edge < EDGES; ++edge) {
        if (reached[edge] != 0 && known[edge] == 0) {
            known[edge] = 1;
            news = true;
        }
    }
    return news;
}

Bytes read_file(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
}

std::vector<Bytes> read_all(const std::vector<std::string>& places) {
    std::vector<fs::path> files;
    for (const std::string& place : places) {
        if (!fs::is_directory(place)) files.emplace_back(place);
        else for (const auto& entry : fs::directory_iterator(place)) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());  // directories come in any order
    std::vector<Bytes> inputs;
    for (const fs::path& file : files) inputs.push_back(read_file(file));
    return inputs;
}

}  // namespace

// Called by instrumented code at every edge.
extern "C" void __sanitizer_cov_trace_pc() {
    // Counted from a place in the program, which is loaded somewhere else each time.
    const auto place = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) -
                       reinterpret_cast<std::uintptr_t>(&LLVMFuzzerTestOneInput);
    reached[(place ^ place >> 16) % EDGES] = 1;
}

extern "C" void __asan_set_death_callback(void (*)()) __attribute__((weak));

int main(int count, char** given) {
    std::uint64_t seed = 0, runs = 10'000, seconds = 0;
    std::vector<std::string> places;
    for (int i = 1; i < count; ++i) {
        const std::string argument = given[i];
        const bool has_value = i + 1 < count;
        if (argument == "--seed" && has_value) seed = std::strtoull(given[++i], nullptr, 10);
        else if (argument == "--runs" && has_value) runs = std::strtoull(given[++i], nullptr, 10);
        else if (argument == "--seconds" && has_value) seconds = std::strtoull(given[++i], nullptr, 10);
        else if (argument.rfind("--", 0) == 0) {
            std::fprintf(stderr, "usage: %s [--seed N] [--runs N] [--seconds N] FILE_OR_DIRECTORY...\n", given[0]);
            return 2;
        } else places.push_back(argument);
    }
    for (const int number : {SIGSEGV, SIGABRT, SIGPROF, SIGFPE}) std::signal(number, on_signal);
    if (__asan_set_death_callback != nullptr) __asan_set_death_callback(keep_crash);

    std::vector<Bytes> pool;
    std::uint64_t executions = 0;
    for (Bytes& input : read_all(places)) {
        is_news(input);
        ++executions;
        if (input.size() <= MAX_BYTES) pool.push_back(std::move(input));
    }
    if (pool.empty()) pool.push_back({'{', '}'});
    const std::size_t files = pool.size();

    Random random{std::mt19937_64(seed)};
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now(), end = start + std::chrono::seconds(seconds);
    for (std::uint64_t run = 0; seconds != 0 ? Clock::now() < end : run < runs; ++run) {
        Bytes input = pool[random.below(pool.size())];
        for (std::size_t changes = 1 + random.below(4); changes > 0; --changes) mutate(input, pool, random);
        ++executions;
        if (is_news(input)) pool.push_back(std::move(input));
    }
    std::size_t edges = 0;
    for (const std::uint8_t edge : known) edges += edge;
    std::printf("{\"executions\": %llu, \"files\": %zu, \"kept\": %zu, \"edges\": %zu, \"seconds\": %.1f}\n",
                static_cast<unsigned long long>(executions), files, pool.size() - files, edges,
                std::chrono::duration<double>(Clock::now() - start).count());
    return 0;
}
