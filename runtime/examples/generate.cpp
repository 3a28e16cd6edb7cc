// From token ids to a PNG, with a bundle of `dipgo-compile build --pipeline`:
//
//     generate BUNDLE SEED image.png $(dipgo-compile tokenize BUNDLE --prompt "a dress")
//
// Under guidance those are the ids of both halves of the batch, in the plan's order. Models of classes take class ids.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "dipgo/dipgo.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

void append(Bytes& bytes, std::uint32_t number) {  // the most significant byte first
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<std::uint8_t>(number >> shift));
}

std::uint32_t crc32(const Bytes& bytes) {
    std::uint32_t crc = ~0u;
    for (const std::uint8_t byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

void write_chunk(std::ofstream& file, const char* kind, const Bytes& data) {
    Bytes length, named(kind, kind + 4), check;
    append(length, static_cast<std::uint32_t>(data.size()));
    named.insert(named.end(), data.begin(), data.end());
    append(check, crc32(named));
    for (const Bytes& part : {length, named, check}) file.write(reinterpret_cast<const char*>(part.data()), part.size());
}

// The pixels are stored as they are, in deflate's blocks of at most 65,535 bytes: no compression, and no zlib.
bool write_png(const char* path, const std::uint8_t* pixels, std::uint32_t width, std::uint32_t height) {
    Bytes rows;
    for (std::uint32_t y = 0; y < height; ++y, pixels += 3 * width) {
        rows.push_back(0);  // each row begins with its filter: none
        rows.insert(rows.end(), pixels, pixels + 3 * width);
    }
    Bytes stream{0x78, 0x01};
    std::uint32_t a = 1, b = 0;  // Adler-32
    for (std::size_t start = 0; start < rows.size(); start += 65535) {
        const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(65535, rows.size() - start));
        const std::uint8_t last = start + count == rows.size();
        for (const std::uint32_t byte : {std::uint32_t{last}, count & 255, count >> 8, ~count & 255, ~count >> 8 & 255}) {
            stream.push_back(static_cast<std::uint8_t>(byte));
        }
        stream.insert(stream.end(), rows.begin() + start, rows.begin() + start + count);
    }
    for (const std::uint8_t byte : rows) a = (a + byte) % 65521, b = (b + a) % 65521;
    append(stream, b << 16 | a);
    Bytes header;
    append(header, width);
    append(header, height);
    for (const std::uint8_t byte : {8, 2, 0, 0, 0}) header.push_back(byte);  // 8 bits a channel, RGB
    std::ofstream file(path, std::ios::binary);
    file << "\x89PNG\r\n\x1a\n";
    write_chunk(file, "IHDR", header);
    write_chunk(file, "IDAT", stream);
    write_chunk(file, "IEND", {});
    return static_cast<bool>(file.flush());
}

}  // namespace

int main(int count, char** words) try {
    if (count < 5) return std::fprintf(stderr, "usage: generate BUNDLE SEED image.png ID...\n"), 2;
    std::vector<std::int64_t> ids;
    for (int i = 4; i < count; ++i) ids.push_back(std::atoll(words[i]));
    const dipgo::Plan plan(words[1]);
    dipgo::Session session = plan.session();
    std::vector<dipgo::Array> conditions;
    std::vector<Bytes> encoded;
    if (plan.info().has_text_encoder) {
        encoded = session.encode(dipgo::array("input_ids", ids, plan.tensor(DIPGO_TOKENS).shape));
        const std::vector<dipgo::Tensor> wanted = plan.tensors(DIPGO_CONDITION);
        for (std::size_t i = 0; i < wanted.size(); ++i) conditions.push_back({wanted[i], encoded[i].data()});
    } else {
        const dipgo::Tensor wanted = plan.tensor(DIPGO_CONDITION);
        conditions.push_back(dipgo::array(wanted.name, ids, wanted.shape));
    }
    dipgo::ImageOptions options;
    options.seed = std::strtoull(words[2], nullptr, 10);
    const Bytes pixels = session.decode(session.denoise(conditions, options));
    const std::vector<std::int64_t> shape = plan.tensor(DIPGO_PIXELS).shape;
    if (write_png(words[3], pixels.data(), static_cast<std::uint32_t>(shape[2]), static_cast<std::uint32_t>(shape[1])))
        return 0;
    return std::fprintf(stderr, "generate: %s cannot be written\n", words[3]), 1;
} catch (const std::exception& error) {
    return std::fprintf(stderr, "generate: %s\n", error.what()), 1;
}
