// Weight matching of MLPs (Ainsworth, Hayase and Srinivasa, ICLR 2023): coordinate ascent over the permutations of their
// hidden layers, one pair after another, with products in float64.
#include <cmath>

#include "workers.h"

extern "C" int64_t assign(const double* products, int64_t matrices, int64_t n, int64_t* permutations, int64_t threads);

namespace {

typedef double Four __attribute__((vector_size(32), aligned(8), may_alias));
constexpr int64_t ROWS = 4, COLUMNS = 8;  // of a tile of products

struct Layer {
    int64_t inputs, outputs;
    int64_t weight, bias;  // offsets in the flat parameters
};

// Rows that are padded with zeros to whole tiles.
struct Matrix {
    int64_t stride;
    std::vector<double> data;

    Matrix(int64_t rows, int64_t columns)
        : stride((columns + COLUMNS - 1) / COLUMNS * COLUMNS), data(rows * stride) {}
    double* row(int64_t number) { return data.data() + number * stride; }
};

// The sum of term(0), ..., term(count - 1) in four parts, which a processor adds side by side.
template <class Term>
double sum(int64_t count, Term term) {
    double parts[4] = {0, 0, 0, 0};
    for (int64_t k = 0; k < count; k++) parts[k % 4] += term(k);
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

// Adds the products of `units` units of the buyer with those of the seller. Element e of the buyer's unit i is
// buyer[i * unit_stride + e * stride], and seller(e) is the row with element e of all the seller's units.
template <class Seller>
void add_products(Matrix& total, int64_t units, const double* buyer, int64_t unit_stride, int64_t stride,
    int64_t elements, Seller seller) {
    for (int64_t first = 0; first < units; first += ROWS)
        for (int64_t column = 0; column < total.stride; column += COLUMNS) {
            Four tile[ROWS][2] = {};
            const double* rows[ROWS];
            for (int64_t r = 0; r < ROWS; r++) rows[r] = buyer + std::min(first + r, units - 1) * unit_stride;
            for (int64_t e = 0; e < elements; e++) {
                const Four* theirs = reinterpret_cast<const Four*>(seller(e) + column);
                for (int64_t r = 0; r < ROWS; r++)
                    for (int half = 0; half < 2; half++) tile[r][half] += rows[r][e * stride] * theirs[half];
            }
            for (int64_t r = 0; r < std::min(ROWS, units - first); r++)
                for (int half = 0; half < 2; half++)
                    reinterpret_cast<Four*>(total.row(first + r) + column)[half] += tile[r][half];
        }
}

// The permutation of hidden layer j acts on the outputs of layer j and on the inputs of layer j + 1.
class Matcher {
   public:
    Matcher(const int64_t* widths, int64_t depth, double tolerance) : hidden_(depth - 1), tolerance_(tolerance) {
        for (int64_t l = 0; l < depth; l++) {
            layers_.push_back({widths[l], widths[l + 1], flat_, flat_ + widths[l] * widths[l + 1]});
            flat_ = layers_[l].bias + widths[l + 1];
            by_input_.emplace_back(widths[l], widths[l + 1]);
            by_output_.emplace_back(widths[l + 1], widths[l]);
            biases_.emplace_back(1, widths[l + 1]);
        }
        for (int64_t j = 0; j < hidden_; j++) {
            starts_.push_back(units_);
            fixed_.emplace_back(widths[j + 1], widths[j + 1]);
            units_ += widths[j + 1];
        }
        buyer_.resize(flat_);
    }
    int64_t flat() const { return flat_; }
    int64_t units() const { return units_; }

    // Writes the permutations that the ascent reaches from `start`, or from the identity if that is better. Row s of
    // `visits` [sweeps, hidden] is the order in which a sweep takes the layers. Returns whether products are finite.
    bool match(const float* buyer, const float* seller, const int64_t* start, const int64_t* visits, int64_t sweeps,
        int64_t* permutations) {
        load(buyer, seller);
        for (int64_t j = 0; j < hidden_; j++)
            for (int64_t i = 0; i < layers_[j].outputs; i++) permutations[starts_[j] + i] = i;
        if (likeness(seller, start) > likeness(seller, permutations)) std::copy_n(start, units_, permutations);
        std::vector<char> stale(hidden_, 1);
        for (int64_t s = 0; s < sweeps && std::count(stale.begin(), stale.end(), 1) > 0; s++)
            for (int64_t v = 0; v < hidden_; v++) {
                int64_t j = visits[s * hidden_ + v];
                if (!stale[j]) continue;
                stale[j] = 0;
                int improves = improve(j, permutations);
                if (improves < 0) return false;
                if (improves && j > 0) stale[j - 1] = 1;
                if (improves && j + 1 < hidden_) stale[j + 1] = 1;
            }
        return true;
    }

   private:
    int64_t hidden_, flat_ = 0, units_ = 0;
    double tolerance_;
    std::vector<Layer> layers_;
    std::vector<int64_t> starts_;  // of each hidden layer in the permutations
    std::vector<double> buyer_;
    std::vector<Matrix> by_input_, by_output_, biases_;  // the seller's weights with either axis first
    std::vector<Matrix> fixed_;  // the products that do not depend on other permutations

    void load(const float* buyer, const float* seller) {
        std::copy_n(buyer, flat_, buyer_.begin());
        for (int64_t l = 0; l <= hidden_; l++) {
            const Layer& layer = layers_[l];
            for (int64_t o = 0; o < layer.outputs; o++)
                for (int64_t i = 0; i < layer.inputs; i++) {
                    double weight = seller[layer.weight + o * layer.inputs + i];
                    if (l < hidden_) by_input_[l].row(i)[o] = weight;
                    if (l > 0) by_output_[l].row(o)[i] = weight;
                }
            std::copy_n(seller + layer.bias, layer.outputs, biases_[l].row(0));
        }
        for (int64_t j = 0; j < hidden_; j++) {
            std::fill(fixed_[j].data.begin(), fixed_[j].data.end(), 0.0);
            add_products(fixed_[j], layers_[j].outputs, &buyer_[layers_[j].bias], 1, 0, 1,
                [&](int64_t) { return biases_[j].row(0); });
            if (j == 0) add_outputs(j, fixed_[j], [](int64_t e) { return e; });
            if (j + 1 == hidden_) add_inputs(j, fixed_[j], [](int64_t e) { return e; });
        }
    }

    // Adds the products by the weights of layer j, whose inputs are in an `order`.
    template <class Order>
    void add_outputs(int64_t j, Matrix& total, Order order) {
        const Layer& layer = layers_[j];
        add_products(total, layer.outputs, &buyer_[layer.weight], layer.inputs, 1, layer.inputs,
            [&](int64_t e) { return by_input_[j].row(order(e)); });
    }

    // Adds the products by the weights of layer j + 1, whose outputs are in an `order`.
    template <class Order>
    void add_inputs(int64_t j, Matrix& total, Order order) {
        const Layer& layer = layers_[j + 1];
        add_products(total, layer.inputs, &buyer_[layer.weight], 1, layer.inputs, layer.outputs,
            [&](int64_t e) { return by_output_[j + 1].row(order(e)); });
    }

    // Solves the permutation of a hidden layer, given the others. Returns whether the inner product grows, or -1 if
    // products are not finite.
    int improve(int64_t j, int64_t* permutations) {
        int64_t units = layers_[j].outputs, *own = permutations + starts_[j];
        Matrix products = fixed_[j];
        if (j > 0) add_outputs(j, products, [&](int64_t e) { return permutations[starts_[j - 1] + e]; });
        if (j + 1 < hidden_) add_inputs(j, products, [&](int64_t e) { return permutations[starts_[j + 1] + e]; });
        std::vector<double> dense(units * units);
        for (int64_t i = 0; i < units; i++) std::copy_n(products.row(i), units, &dense[i * units]);
        std::vector<int64_t> better(units);
        if (!assign(dense.data(), 1, units, better.data(), 1)) return -1;
        double before = sum(units, [&](int64_t i) { return products.row(i)[own[i]]; });
        double after = sum(units, [&](int64_t i) { return products.row(i)[better[i]]; });
        bool improves = after - before > tolerance_ * std::max(std::abs(before), 1.0);
        if (improves) std::copy_n(better.begin(), units, own);
        return improves;
    }

    // The inner product with the seller's units in the order of the permutations.
    double likeness(const float* seller, const int64_t* permutations) {
        double total = 0;
        for (int64_t l = 0; l <= hidden_; l++) {
            const Layer& layer = layers_[l];
            for (int64_t o = 0; o < layer.outputs; o++) {
                int64_t from = l < hidden_ ? permutations[starts_[l] + o] : o;
                const double* mine = &buyer_[layer.weight + o * layer.inputs];
                const float* theirs = seller + layer.weight + from * layer.inputs;
                const int64_t* order = l > 0 ? permutations + starts_[l - 1] : nullptr;
                total += sum(layer.inputs, [&](int64_t i) { return mine[i] * theirs[order ? order[i] : i]; });
                total += buyer_[layer.bias + o] * seller[layer.bias + from];
            }
        }
        return total;
    }
};

}  // namespace

// Writes the permutations [pairs, H] of buyers and sellers [pairs, P]; see Matcher. Returns whether all products are
// finite.
extern "C" int64_t match(const int64_t* widths, int64_t depth, int64_t pairs, const float* buyers, const float* sellers,
    const int64_t* starts, const int64_t* visits, int64_t sweeps, double tolerance, int64_t* permutations,
    int64_t threads) {
    int64_t operations = 0;  // some sweeps, each with the products and the assignments of all layers
    for (int64_t l = 0; l < depth; l++) operations += 16 * widths[l] * widths[l + 1] * widths[l + 1];
    std::atomic<int64_t> finite(1);
    in_threads(threads, pairs, pairs * operations, [&](auto next) {
        Matcher matcher(widths, depth, tolerance);
        int64_t flat = matcher.flat(), units = matcher.units();
        for (int64_t q = next(); q < pairs; q = next())
            if (!matcher.match(buyers + q * flat, sellers + q * flat, starts + q * units, visits, sweeps,
                    permutations + q * units))
                finite = 0;
    });
    return finite;
}
