// Stems of many MLPs, their losses, and the losses of the merges of many pairs.
//
// Samples are processed in panels [units, PANEL], so that the weights are read as they lie in the flat parameters.
#include <cmath>

#include "vectors.h"
#include "workers.h"

namespace {

constexpr int64_t PANELS = 8;               // at a time, for which merged weights are computed once
constexpr int64_t BLOCK = PANELS * PANEL;  // samples; it does not depend on the threads, nor do the sums of losses

struct Layer {
    int64_t inputs, outputs;
    int64_t weight, bias;  // offsets in the flat parameters
};

struct Shape {
    std::vector<Layer> layers;
    int64_t flat = 0, widest = 0, hidden = 0;

    Shape(const int64_t* widths, int64_t depth) {
        for (int64_t l = 0; l < depth; l++) {
            Layer layer{widths[l], widths[l + 1], flat, flat + widths[l] * widths[l + 1]};
            flat = layer.bias + layer.outputs;
            widest = std::max(widest, layer.outputs);
            hidden += l + 1 < depth ? layer.outputs : 0;
            layers.push_back(layer);
        }
    }
    int64_t last() const { return layers.size() - 1; }
};

// The outputs [outputs, PANEL] of a layer, before the nonlinearity, for a panel of its inputs.
template <class Output>
inline void forward(const Layer& layer, const float* parameters, const float* panel, Output output) {
    for_rows(layer.outputs, [&](auto size, int64_t row) {
        constexpr int R = size;
        Vec sum[R][2];
        const float* rows[R];
        for (int r = 0; r < R; r++) {
            sum[r][0] = sum[r][1] = all(parameters[layer.bias + row + r]);
            rows[r] = parameters + layer.weight + (row + r) * layer.inputs;
        }
        add_product(sum, rows, panel, layer.inputs);
        for (int r = 0; r < R; r++) output(row + r, sum[r][0], sum[r][1]);
    });
}

void put(float* panel, int64_t row, Vec left, Vec right) {
    store(panel + row * PANEL, left);
    store(panel + row * PANEL + LANES, right);
}

void forward_linear(const Layer& layer, const float* parameters, const float* panel, float* out) {
    forward(layer, parameters, panel, [&](int64_t row, Vec left, Vec right) { put(out, row, left, right); });
}

void forward_relu(const Layer& layer, const float* parameters, const float* panel, float* out) {
    forward(layer, parameters, panel, [&](int64_t row, Vec left, Vec right) { put(out, row, relu(left), relu(right)); });
}

void relu_in_place(float* panel, int64_t rows) {
    for (int64_t k = 0; k < rows * PANEL; k += LANES) store(panel + k, relu(load(panel + k)));
}

// A panel of the columns of a matrix, with the rows in this order; it ends with zeros.
void copy_columns(const float* from, int64_t stride, const int64_t* order, int64_t rows, int64_t columns, float* panel) {
    for (int64_t row = 0; row < rows; row++) {
        const float* source = from + (order ? order[row] : row) * stride;
        std::copy_n(source, columns, panel + row * PANEL);
        std::fill_n(panel + row * PANEL + columns, PANEL - columns, 0.0f);
    }
}

// A panel of samples of the dataset [samples, features]; it ends with copies of the last of the `count` samples.
void gather(const float* inputs, int64_t features, const int64_t* samples, int64_t count, float* panel) {
    alignas(32) float rows[PANEL * PANEL];
    for (int64_t f = 0; f < features; f += PANEL) {
        int64_t width = std::min<int64_t>(PANEL, features - f);
        for (int64_t s = 0; s < PANEL; s++)
            std::copy_n(inputs + samples[std::min(s, count - 1)] * features + f, width, rows + s * PANEL);
        transpose(rows, PANEL, PANEL, width, panel + f * PANEL, PANEL);
    }
}

void put_columns(float* row, Vec left, Vec right, int64_t count) {
    alignas(32) float both[PANEL];
    if (count == PANEL) return put(row, 0, left, right);
    put(both, 0, left, right);
    std::copy_n(both, count, row);
}

// The sum of the cross-entropies of the first `samples` columns of a panel of logits.
double sum_of_losses(const float* logits, int64_t classes, const int64_t* labels, int64_t samples) {
    alignas(32) float loss[PANEL];
    for (int half = 0; half < PANEL; half += LANES) {
        Vec most = load(logits + half), sum{};
        for (int64_t c = 1; c < classes; c++) most = larger(most, load(logits + c * PANEL + half));
        for (int64_t c = 0; c < classes; c++) sum += exp_of_negative(load(logits + c * PANEL + half) - most);
        store(loss + half, log_of_large(sum) + most);
    }
    double total = 0;
    for (int64_t s = 0; s < samples; s++) total += loss[s] - logits[labels[s] * PANEL + s];
    return total;
}

// The memory for two layers' outputs, with which a thread evaluates one panel after another.
struct Evaluator {
    const Shape& shape;
    Buffer<float> input, output;

    explicit Evaluator(const Shape& shape)
        : shape(shape), input(shape.widest * PANEL), output(shape.widest * PANEL) {}

    // Runs the layers from `from` to before `to`, with ReLU, on the panel in `input`, and leaves the result there.
    void advance(const float* parameters, int64_t from, int64_t to) {
        for (int64_t l = from; l < to; l++) {
            forward_relu(shape.layers[l], parameters, input, output);
            std::copy_n(output + 0, shape.layers[l].outputs * PANEL, input + 0);
        }
    }

    // The sum of the losses if `input` holds the outputs of layer `done`, before the nonlinearity.
    double loss(const float* parameters, int64_t done, const int64_t* labels, int64_t samples) {
        int64_t last = shape.last();
        if (done == last) return sum_of_losses(input, shape.layers[last].outputs, labels, samples);
        relu_in_place(input, shape.layers[done].outputs);
        advance(parameters, done + 1, last);
        forward_linear(shape.layers[last], parameters, input, output);
        return sum_of_losses(output, shape.layers[last].outputs, labels, samples);
    }
};

int64_t blocks_of(int64_t samples) { return (samples + BLOCK - 1) / BLOCK; }

// The means [rows, columns] of sums of parts [rows, blocks, columns].
void reduce(const double* parts, int64_t rows, int64_t blocks, int64_t columns, int64_t samples, double* means) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            double sum = 0;
            for (int64_t b = 0; b < blocks; b++) sum += parts[(r * blocks + b) * columns + c];
            means[r * columns + c] = sum / samples;
        }
}

// Pairs of networks, and the merges to try.
struct Trials {
    const Shape& shape;
    const float* parameters;  // [groups, networks, P]
    const float* stems;       // [groups, networks, units, samples]
    const int64_t* labels;    // [groups, samples]
    int64_t networks, samples;
    const int64_t *group, *buyer, *seller, *permutations;  // [pairs], and [pairs, hidden]
    const float* weights;                                  // [merges, P]
    int64_t merges;
};

// The layer after which the merges differ: its outputs are linear in the merge weight.
int64_t branching_layer(const Trials& trials) {
    const Shape& shape = trials.shape;
    for (int64_t l = 0; l <= shape.last(); l++) {
        const Layer& layer = shape.layers[l];
        bool traded = false, linear = true;
        for (int64_t w = 0; w < trials.merges; w++) {
            const float* weights = trials.weights + w * shape.flat + layer.weight;
            for (int64_t k = 0; k < (layer.inputs + 1) * layer.outputs; k++) {
                traded |= weights[k] != 0;
                linear &= weights[k] == weights[0];
            }
        }
        if (traded) return l == 0 || linear ? l : l - 1;
    }
    return shape.last();
}

inline Vec lerp(Vec a, Vec b, Vec weight) {  // as torch computes it, exact at both ends
    return weight < 0.5f ? a + weight * (b - a) : b - (b - a) * (1.0f - weight);
}

void lerp(const float* a, const float* b, const float* weights, int64_t size, float* out) {
    int64_t k = 0;
    for (; k + LANES <= size; k += LANES) store(out + k, lerp(load(a + k), load(b + k), load(weights + k)));
    for (; k < size; k++) out[k] = lerp(all(a[k]), all(b[k]), all(weights[k]))[0];
}

// The memory in which a thread tries the merges of one pair after another.
class Trier {
   public:
    Trier(const Trials& trials, int64_t branch)
        : trials_(trials),
          shape_(trials.shape),
          branch_(branch),
          evaluator_(trials.shape),
          aligned_(trials.shape.flat),
          merged_(trials.shape.flat),
          mine_(PANELS * trials.shape.layers[branch].outputs * PANEL),
          theirs_(PANELS * trials.shape.layers[branch].outputs * PANEL) {}

    // The sums of the losses of all merges of a pair on a block of samples, `sums` [merges].
    void try_block(int64_t pair, int64_t block, double* sums) {
        int64_t start = block * BLOCK, samples = std::min(BLOCK, trials_.samples - start);
        align(pair);
        for (int64_t s = 0; s < samples; s += PANEL)
            branch(pair, start + s, std::min<int64_t>(PANEL, samples - s), s / PANEL * panel_size());
        const int64_t* labels = trials_.labels + trials_.group[pair] * trials_.samples + start;
        int64_t body = shape_.layers[branch_].bias + shape_.layers[branch_].outputs;
        for (int64_t w = 0; w < trials_.merges; w++) {
            const float* weights = trials_.weights + w * shape_.flat;
            lerp(network(pair, trials_.buyer) + body, aligned_ + body, weights + body, shape_.flat - body, merged_ + body);
            Vec weight = all(weights[shape_.layers[branch_].weight]);
            sums[w] = 0;
            for (int64_t s = 0; s < samples; s += PANEL) {
                const float *mine = mine_ + s / PANEL * panel_size(), *theirs = theirs_ + s / PANEL * panel_size();
                for (int64_t k = 0; k < panel_size(); k += LANES)
                    store(evaluator_.input + k, lerp(load(mine + k), load(theirs + k), weight));
                sums[w] += evaluator_.loss(merged_, branch_, labels + s, std::min<int64_t>(PANEL, samples - s));
            }
        }
    }

   private:
    const Trials& trials_;
    const Shape& shape_;
    int64_t branch_;
    Evaluator evaluator_;
    Buffer<float> aligned_, merged_;
    Buffer<float> mine_, theirs_;  // the panels of the branching layer's outputs

    int64_t panel_size() const { return shape_.layers[branch_].outputs * PANEL; }

    int64_t place(int64_t pair, const int64_t* which) const {
        return trials_.group[pair] * trials_.networks + which[pair];
    }
    const float* network(int64_t pair, const int64_t* which) const {
        return trials_.parameters + place(pair, which) * shape_.flat;
    }
    const float* stem(int64_t pair, const int64_t* which) const {
        return trials_.stems + place(pair, which) * shape_.layers[0].outputs * trials_.samples;
    }

    // Writes the seller's layers behind the stem, with their units in the buyer's order, to `aligned_`.
    void align(int64_t pair) {
        const float* seller = network(pair, trials_.seller);
        const int64_t* in = trials_.permutations + pair * shape_.hidden;
        for (int64_t l = 1; l <= shape_.last(); l++) {
            const Layer& layer = shape_.layers[l];
            const int64_t* out = l < shape_.last() ? in + layer.inputs : nullptr;
            for (int64_t o = 0; o < layer.outputs; o++) {
                int64_t from = out ? out[o] : o;
                const float* row = seller + layer.weight + from * layer.inputs;
                float* to = aligned_ + layer.weight + o * layer.inputs;
                for (int64_t i = 0; i < layer.inputs; i++) to[i] = row[in[i]];
                aligned_[layer.bias + o] = seller[layer.bias + from];
            }
            in = out;
        }
    }

    // Writes the outputs of the branching layer, with the buyer's and the seller's parameters, for a panel of samples.
    void branch(int64_t pair, int64_t start, int64_t samples, int64_t to) {
        int64_t units = shape_.layers[0].outputs, stride = trials_.samples;
        const int64_t* order = shape_.last() > 0 ? trials_.permutations + pair * shape_.hidden : nullptr;
        const float *mine = stem(pair, trials_.buyer) + start, *theirs = stem(pair, trials_.seller) + start;
        if (branch_ == 0) {
            copy_columns(mine, stride, nullptr, units, samples, mine_ + to);
            copy_columns(theirs, stride, order, units, samples, theirs_ + to);
            return;
        }
        const float* buyer = network(pair, trials_.buyer);
        copy_columns(mine, stride, nullptr, units, samples, evaluator_.input);
        relu_in_place(evaluator_.input, units);
        evaluator_.advance(buyer, 1, branch_);
        forward_linear(shape_.layers[branch_], buyer, evaluator_.input, mine_ + to);
        forward_linear(shape_.layers[branch_], aligned_, evaluator_.input, theirs_ + to);
    }
};

}  // namespace

// The stems `out` [groups, networks, units, samples] of networks [groups, networks, P], each group on its own samples.
extern "C" void stems(const int64_t* widths, int64_t depth, int64_t groups, int64_t networks, const float* parameters,
    const float* inputs, const int64_t* samples, int64_t columns, float* out, int64_t threads) {
    Shape shape(widths, depth);
    const Layer& layer = shape.layers[0];
    int64_t blocks = blocks_of(columns);
    in_threads(threads, groups * blocks, [&](auto next) {
        Buffer<float> panel(layer.inputs * PANEL), padded(layer.outputs * PANEL);
        for (int64_t task = next(); task < groups * blocks; task = next()) {
            int64_t group = task / blocks, start = task % blocks * BLOCK, end = std::min(columns, start + BLOCK);
            for (int64_t s = start; s < end; s += PANEL) {
                int64_t count = std::min<int64_t>(PANEL, end - s);
                gather(inputs, layer.inputs, samples + group * columns + s, count, panel);
                for (int64_t n = group * networks; n < (group + 1) * networks; n++) {
                    float* to = out + n * layer.outputs * columns + s;
                    forward(layer, parameters + n * shape.flat, panel, [&](int64_t row, Vec left, Vec right) {
                        put_columns(to + row * columns, left, right, count);
                    });
                }
            }
        }
    });
}

// The mean losses [groups, networks] of networks [groups, networks, P] with these stems and labels.
extern "C" void losses(const int64_t* widths, int64_t depth, int64_t groups, int64_t networks, const float* parameters,
    const float* stems, const int64_t* labels, int64_t samples, double* out, int64_t threads) {
    Shape shape(widths, depth);
    int64_t units = shape.layers[0].outputs, blocks = blocks_of(samples), count = groups * networks;
    Buffer<double> parts(count * blocks);
    in_threads(threads, count * blocks, [&](auto next) {
        Evaluator evaluator(shape);
        for (int64_t task = next(); task < count * blocks; task = next()) {
            int64_t n = task / blocks, start = task % blocks * BLOCK, end = std::min(samples, start + BLOCK);
            for (int64_t s = start; s < end; s += PANEL) {
                int64_t size = std::min<int64_t>(PANEL, end - s);
                copy_columns(stems + n * units * samples + s, samples, nullptr, units, size, evaluator.input);
                parts[task] += evaluator.loss(
                    parameters + n * shape.flat, 0, labels + n / networks * samples + s, size);
            }
        }
    });
    reduce(parts, count, blocks, 1, samples, out);
}

// The mean losses `out` [pairs, merges] of the merges of pairs of networks; see Trials.
extern "C" void try_merges(const int64_t* widths, int64_t depth, int64_t networks, const float* parameters,
    const float* stems, const int64_t* labels, int64_t samples, int64_t pairs, const int64_t* group, const int64_t* buyer,
    const int64_t* seller, const int64_t* permutations, int64_t merges, const float* weights, double* out,
    int64_t threads) {
    Shape shape(widths, depth);
    Trials trials{shape, parameters, stems, labels, networks, samples, group, buyer, seller, permutations, weights, merges};
    int64_t branch = branching_layer(trials), blocks = blocks_of(samples);
    Buffer<double> parts(pairs * blocks * merges);
    in_threads(threads, pairs * blocks, [&](auto next) {
        Trier trier(trials, branch);
        for (int64_t task = next(); task < pairs * blocks; task = next())
            trier.try_block(task / blocks, task % blocks, parts + task * merges);
    });
    reduce(parts, pairs, blocks, merges, samples, out);
}
