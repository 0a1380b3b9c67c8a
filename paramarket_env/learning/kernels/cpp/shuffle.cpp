// The order of the samples in a pass.
#include "workers.h"

namespace {

struct Drawn {
    uint64_t number;
    int64_t sample;
};

// The random number of 63 bits at a place in a stream; see paramarket_env.seeding.bits.
uint64_t drawn(uint64_t key, uint64_t place) {
    uint64_t x = key + (place + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (x ^ (x >> 31)) >> 1;
}

// Sorts by number, and keeps the order of equals. Numbers are uniform, so that a table with a slot for each of them
// leaves little to do.
class Sorter {
   public:
    explicit Sorter(int64_t most) : sorted_(most), starts_(2 * most + 2) {}

    const Drawn* sort(const Drawn* from, int64_t count) {
        int shift = 63;
        while ((int64_t(1) << (63 - shift)) < count) shift--;
        std::fill_n(starts_ + 0, (int64_t(1) << (63 - shift)) + 1, 0);
        for (int64_t k = 0; k < count; k++) starts_[(from[k].number >> shift) + 1]++;
        for (int64_t slot = 1; slot <= int64_t(1) << (63 - shift); slot++) starts_[slot] += starts_[slot - 1];
        for (int64_t k = 0; k < count; k++) sorted_[starts_[from[k].number >> shift]++] = from[k];
        for (int64_t k = 1; k < count; k++) {
            Drawn moved = sorted_[k];
            int64_t place = k;
            for (; place > 0 && moved.number < sorted_[place - 1].number; place--) sorted_[place] = sorted_[place - 1];
            sorted_[place] = moved;
        }
        return sorted_;
    }

   private:
    Buffer<Drawn> sorted_;
    Buffer<int64_t> starts_;
};

}  // namespace

// Writes each row's samples [rows, columns] in the order that follows from its key, then -1. The rows of `samples` begin
// `stride` numbers apart; entries below 0 are no samples.
extern "C" void shuffle(const int64_t* samples, int64_t stride, int64_t rows, int64_t columns, const int64_t* keys,
    int64_t* out, int64_t threads) {
    in_threads(threads, rows, rows * columns * 128, [&](auto next) {
        Buffer<Drawn> numbers(columns);
        Sorter sorter(columns);
        for (int64_t r = next(); r < rows; r = next()) {
            int64_t count = 0;
            for (int64_t c = 0; c < columns; c++)
                if (samples[r * stride + c] >= 0) numbers[count++] = {drawn(keys[r], c), samples[r * stride + c]};
            const Drawn* sorted = sorter.sort(numbers, count);
            for (int64_t c = 0; c < columns; c++) out[r * columns + c] = c < count ? sorted[c].sample : -1;
        }
    });
}
