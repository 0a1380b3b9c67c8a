// Vectors of float32, and the products, exponentials and logarithms that the kernels are made of.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

constexpr int LANES = 8;
constexpr int PANEL = 2 * LANES;  // the columns of a matrix whose products stay in registers
constexpr int TILE = 6;           // the rows of which the same holds; with a panel they fill the 16 registers of AVX2

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

static inline Vec load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
static inline void store(float* to, Vec value) { *reinterpret_cast<Unaligned*>(to) = value; }
static inline Vec all(float value) { return Vec{} + value; }

// All functions below return NaN for NaN, as torch's do.
static inline Vec relu(Vec x) { return x < 0 ? Vec{} : x; }
static inline Vec larger(Vec a, Vec b) { return a < b ? b : a; }

static inline Bits as_bits(Vec x) {
    Bits bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline Vec as_floats(Bits bits) {
    Vec x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// e^x for x <= 0 (Cephes): 2^n e^r, where n is the integer next to x / ln 2.
static inline Vec exp_of_negative(Vec x) {
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it drops the fraction
    Vec n = (x * 1.44269504088896341f + round) - round;
    Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Bits power = (reinterpret_cast<Bits>(__builtin_convertvector(n, Ints)) + 127u) << 23;
    return x < -87.0f ? Vec{} : p * as_floats(power);
}

// ln x for finite x >= 1 (Cephes): e ln 2 + ln m, where m lies between the roots of 1/2 and 2.
static inline Vec log_of_large(Vec x) {
    Bits bits = as_bits(x);
    Vec m = as_floats((bits & 0x7fffffu) | 0x3f800000u);
    Vec e = __builtin_convertvector(reinterpret_cast<Ints>(bits >> 23) - 127, Vec);
    auto high = m > 1.41421356f;
    e = high ? e + 1.0f : e;
    m = (high ? m * 0.5f : m) - 1.0f;
    Vec p = all(7.0376836292e-2f);
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    Vec square = m * m;
    Vec y = m * square * p - 2.12194440e-4f * e - 0.5f * square + m + 0.693359375f * e;
    return x == x ? y : x;
}

// Adds the product of R rows of `depth` numbers each with a panel [depth, C * LANES].
template <int R, int C>
static inline __attribute__((always_inline)) void add_product(
    Vec (&sum)[R][C], const float* const* rows, const float* panel, int64_t depth) {
    const float* row[R];
    for (int r = 0; r < R; r++) row[r] = rows[r];
    for (int64_t k = 0; k < depth; k++) {
        Vec column[C];
        for (int c = 0; c < C; c++) column[c] = load(panel + (k * C + c) * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++) sum[r][c] += row[r][k] * column[c];
    }
}

template <int N>
using Size = std::integral_constant<int, N>;

// Calls tile(rows, row) for tiles of at most TILE rows and about the same size.
template <class Tile>
static inline __attribute__((always_inline)) void for_rows(int64_t rows, Tile tile) {
    int64_t tiles = (rows + TILE - 1) / TILE;
    for (int64_t t = 0, row = 0; t < tiles; t++) {
        int64_t size = (rows - row) / (tiles - t);
        switch (size) {
            case 1: tile(Size<1>(), row); break;
            case 2: tile(Size<2>(), row); break;
            case 3: tile(Size<3>(), row); break;
            case 4: tile(Size<4>(), row); break;
            case 5: tile(Size<5>(), row); break;
            default: tile(Size<6>(), row);
        }
        row += size;
    }
}

static inline int64_t rounded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

// Writes the transpose of eight rows of eight numbers; row(i) points to the i-th.
template <class Row>
static inline __attribute__((always_inline)) void transpose_rows(Row row, float* to, int64_t to_stride) {
    Vec a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = load(row(i));
    for (int i = 0; i < 8; i += 2) {
        b[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        b[i + 1] = SHUFFLE(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + j] = SHUFFLE(b[i + j], b[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[i + j + 2] = SHUFFLE(b[i + j], b[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int j = 0; j < 4; j++) {
        store(to + j * to_stride, SHUFFLE(a[j], a[j + 4], 0, 1, 2, 3, 8, 9, 10, 11));
        store(to + (j + 4) * to_stride, SHUFFLE(a[j], a[j + 4], 4, 5, 6, 7, 12, 13, 14, 15));
    }
}

static inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    transpose_rows([&](int i) { return from + i * from_stride; }, to, to_stride);
}

// Writes the transpose of a matrix [rows, columns]; the strides are those of the rows.
static inline void transpose(
    const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
    int64_t full_rows = rows / 8 * 8, full_columns = columns / 8 * 8;
    for (int64_t i = 0; i < full_rows; i += 8)
        for (int64_t j = 0; j < full_columns; j += 8)
            transpose_block(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < full_rows ? full_columns : 0; j < columns; j++)
            to[j * to_stride + i] = from[i * from_stride + j];
}
