// Stems of many MLPs, their losses, and the losses of the merges of many pairs.
//
// Samples are processed in panels [units, PANEL], so that the weights are read as they lie in the flat parameters.
#include <cmath>

#include "vectors.h"
#include "workers.h"

namespace {

constexpr int64_t PANELS = 8;  // at most at a time, for which merged weights are computed once

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
    int64_t body() const { return flat - layers[0].bias; }  // the parameters behind the stem, about
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

// Cuts the columns of a matrix, with its rows in this order, into panels; the last ends with zeros.
template <class Change>
void copy_columns(
    const float* from, int64_t stride, const int64_t* order, int64_t rows, int64_t columns, float* panels, Change change) {
    for (int64_t row = 0; row < rows; row++) {
        const float* source = from + (order ? order[row] : row) * stride;
        float* to = panels + row * PANEL;
        int64_t full = columns / PANEL * PANEL, panel = rows * PANEL;
        for (int64_t c = 0; c < full; c += PANEL, to += panel)
            put(to, 0, change(load(source + c)), change(load(source + c + LANES)));
        if (full < columns) {
            alignas(32) float padded[PANEL] = {};
            std::copy_n(source + full, columns - full, padded);
            put(to, 0, change(load(padded)), change(load(padded + LANES)));
        }
    }
}

Vec unchanged(Vec x) { return x; }

// A panel of samples of the dataset [samples, features]; it ends with copies of the last of the `count` samples.
void gather(const float* inputs, int64_t features, const int64_t* samples, int64_t count, float* panel) {
    const float* rows[PANEL];
    for (int64_t s = 0; s < PANEL; s++) rows[s] = inputs + samples[std::min(s, count - 1)] * features;
    int64_t full = features / LANES * LANES;
    for (int64_t f = 0; f < full; f += LANES)
        for (int64_t s = 0; s < PANEL; s += LANES)
            transpose_rows([&](int i) { return rows[s + i] + f; }, panel + f * PANEL + s, PANEL);
    for (int64_t f = full; f < features; f++)
        for (int64_t s = 0; s < PANEL; s++) panel[f * PANEL + s] = rows[s][f];
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
class Evaluator {
   public:
    explicit Evaluator(const Shape& shape) : shape_(shape), one_(shape.widest * PANEL), two_(shape.widest * PANEL) {}

    // The panel of units behind the layers from `from` to before `to`, with ReLU.
    const float* advance(const float* parameters, int64_t from, int64_t to, const float* units) {
        for (int64_t l = from; l < to; l++) {
            float* out = other(units);
            forward_relu(shape_.layers[l], parameters, units, out);
            units = out;
        }
        return units;
    }

    // The sum of the losses, given a panel of units of layer `done`, after the nonlinearity unless they are logits.
    double loss(const float* parameters, int64_t done, const float* units, const int64_t* labels, int64_t samples) {
        int64_t last = shape_.last();
        if (done < last) {
            units = advance(parameters, done + 1, last, units);
            forward_linear(shape_.layers[last], parameters, units, other(units));
            units = other(units);
        }
        return sum_of_losses(units, shape_.layers[last].outputs, labels, samples);
    }

   private:
    const Shape& shape_;
    Buffer<float> one_, two_;

    float* other(const float* units) const { return units == one_ ? two_ : one_; }
};

// The samples in blocks of at most PANELS panels. The blocks, and so the sums of losses, do not depend on the threads.
struct Blocks {
    int64_t samples, panels, count;

    explicit Blocks(int64_t samples)
        : samples(samples), panels((samples + PANEL - 1) / PANEL), count((panels + PANELS - 1) / PANELS) {}

    int64_t start(int64_t block) const { return std::min(samples, block * panels / count * PANEL); }
    int64_t size(int64_t block) const { return start(block + 1) - start(block); }

    // Calls part(panel, first, size) for each panel of a block, which has samples first, ..., first + size - 1.
    template <class Part>
    void each_panel(int64_t block, Part part) const {
        int64_t begin = start(block), end = start(block + 1);
        for (int64_t s = begin; s < end; s += PANEL) part((s - begin) / PANEL, s, std::min<int64_t>(PANEL, end - s));
    }
};

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

// Interpolates from a to b by the formula of torch.lerp, which is exact at both ends.
void lerp(const float* a, const float* b, const float* weights, int64_t size, float* out) {
    for (int64_t k = 0; k < size; k++) {
        float difference = b[k] - a[k], weight = weights[k];
        out[k] = weight < 0.5f ? a[k] + weight * difference : b[k] - difference * (1.0f - weight);
    }
}

// The same with one weight, followed by `change`. The size is a multiple of LANES.
template <class Change>
void lerp(const float* a, const float* b, float weight, int64_t size, float* out, Change change) {
    if (weight >= 0.5f) {
        std::swap(a, b);
        weight = 1.0f - weight;
    }
    for (int64_t k = 0; k < size; k += LANES)
        store(out + k, change(load(a + k) + weight * (load(b + k) - load(a + k))));
}

// The memory in which a thread tries the merges of one pair after another.
class Trier {
   public:
    Trier(const Trials& trials, int64_t branch)
        : trials_(trials),
          shape_(trials.shape),
          branch_(branch),
          blocks_(trials.samples),
          evaluator_(trials.shape),
          aligned_(trials.shape.flat),
          merged_(trials.shape.flat),
          stems_(PANELS * trials.shape.layers[0].outputs * PANEL),
          mine_(PANELS * trials.shape.layers[branch].outputs * PANEL),
          theirs_(PANELS * trials.shape.layers[branch].outputs * PANEL),
          units_(trials.shape.layers[branch].outputs * PANEL) {}

    // The sums of the losses of all merges of a pair on a block of samples, `sums` [merges].
    void try_block(int64_t pair, int64_t block, double* sums) {
        align(pair);
        branch(pair, block);
        const int64_t* labels = trials_.labels + trials_.group[pair] * trials_.samples;
        int64_t body = shape_.layers[branch_].bias + shape_.layers[branch_].outputs;
        for (int64_t w = 0; w < trials_.merges; w++) {
            const float* weights = trials_.weights + w * shape_.flat;
            lerp(network(pair, trials_.buyer) + body, aligned_ + body, weights + body, shape_.flat - body, merged_ + body);
            sums[w] = 0;
            blocks_.each_panel(block, [&](int64_t panel, int64_t first, int64_t size) {
                merge_units(weights[shape_.layers[branch_].weight], panel);
                sums[w] += evaluator_.loss(merged_, branch_, units_, labels + first, size);
            });
        }
    }

   private:
    const Trials& trials_;
    const Shape& shape_;
    int64_t branch_;
    Blocks blocks_;
    Evaluator evaluator_;
    Buffer<float> aligned_, merged_;
    Buffer<float> stems_, mine_, theirs_;  // panels of the buyer's stem, and of the branching layer's outputs
    Buffer<float> units_;                  // a panel of these outputs, merged

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

    // Writes the outputs of the branching layer, with the buyer's and the seller's parameters, for a block of samples.
    void branch(int64_t pair, int64_t block) {
        int64_t units = shape_.layers[0].outputs, stride = trials_.samples, size = blocks_.size(block);
        const int64_t* order = shape_.last() > 0 ? trials_.permutations + pair * shape_.hidden : nullptr;
        const float* mine = stem(pair, trials_.buyer) + blocks_.start(block);
        const float* theirs = stem(pair, trials_.seller) + blocks_.start(block);
        if (branch_ == 0) {
            copy_columns(mine, stride, nullptr, units, size, mine_, unchanged);
            copy_columns(theirs, stride, order, units, size, theirs_, unchanged);
            return;
        }
        const float* buyer = network(pair, trials_.buyer);
        copy_columns(mine, stride, nullptr, units, size, stems_, relu);
        blocks_.each_panel(block, [&](int64_t panel, int64_t, int64_t) {
            const float* behind = evaluator_.advance(buyer, 1, branch_, stems_ + panel * units * PANEL);
            forward_linear(shape_.layers[branch_], buyer, behind, mine_ + panel * panel_size());
            forward_linear(shape_.layers[branch_], aligned_, behind, theirs_ + panel * panel_size());
        });
    }

    // Writes a panel of the units of the branching layer of a merge.
    void merge_units(float weight, int64_t panel) {
        const float *mine = mine_ + panel * panel_size(), *theirs = theirs_ + panel * panel_size();
        if (branch_ < shape_.last())
            lerp(mine, theirs, weight, panel_size(), units_, relu);
        else
            lerp(mine, theirs, weight, panel_size(), units_, unchanged);
    }
};

}  // namespace

// The stems `out` [groups, networks, units, samples] of networks [groups, networks, P], each group on its own samples.
extern "C" void stems(const int64_t* widths, int64_t depth, int64_t groups, int64_t networks, const float* parameters,
    const float* inputs, const int64_t* samples, int64_t columns, float* out, int64_t threads) {
    Shape shape(widths, depth);
    Blocks blocks(columns);
    const Layer& layer = shape.layers[0];
    in_threads(threads, groups * blocks.count, groups * networks * columns * layer.bias, [&](auto next) {
        Buffer<float> panel(layer.inputs * PANEL);
        for (int64_t task = next(); task < groups * blocks.count; task = next()) {
            int64_t group = task / blocks.count;
            blocks.each_panel(task % blocks.count, [&](int64_t, int64_t first, int64_t size) {
                gather(inputs, layer.inputs, samples + group * columns + first, size, panel);
                for (int64_t n = group * networks; n < (group + 1) * networks; n++) {
                    float* to = out + n * layer.outputs * columns + first;
                    forward(layer, parameters + n * shape.flat, panel, [&](int64_t row, Vec left, Vec right) {
                        put_columns(to + row * columns, left, right, size);
                    });
                }
            });
        }
    });
}

// The mean losses [groups, networks] of networks [groups, networks, P] with these stems and labels.
extern "C" void losses(const int64_t* widths, int64_t depth, int64_t groups, int64_t networks, const float* parameters,
    const float* stems, const int64_t* labels, int64_t samples, double* out, int64_t threads) {
    Shape shape(widths, depth);
    Blocks blocks(samples);
    int64_t units = shape.layers[0].outputs, tasks = groups * networks * blocks.count;
    Buffer<double> parts(tasks);
    in_threads(threads, tasks, groups * networks * samples * shape.body(), [&](auto next) {
        Evaluator evaluator(shape);
        Buffer<float> panels(PANELS * units * PANEL);
        for (int64_t task = next(); task < tasks; task = next()) {
            int64_t n = task / blocks.count, block = task % blocks.count;
            const float* stem = stems + n * units * samples + blocks.start(block);
            if (shape.last() > 0)
                copy_columns(stem, samples, nullptr, units, blocks.size(block), panels, relu);
            else
                copy_columns(stem, samples, nullptr, units, blocks.size(block), panels, unchanged);
            blocks.each_panel(block, [&](int64_t panel, int64_t first, int64_t size) {
                const int64_t* own = labels + n / networks * samples + first;
                parts[task] += evaluator.loss(
                    parameters + n * shape.flat, 0, panels + panel * units * PANEL, own, size);
            });
        }
    });
    reduce(parts, groups * networks, blocks.count, 1, samples, out);
}

// The mean losses `out` [pairs, merges] of the merges of pairs of networks; see Trials.
extern "C" void try_merges(const int64_t* widths, int64_t depth, int64_t networks, const float* parameters,
    const float* stems, const int64_t* labels, int64_t samples, int64_t pairs, const int64_t* group, const int64_t* buyer,
    const int64_t* seller, const int64_t* permutations, int64_t merges, const float* weights, double* out,
    int64_t threads) {
    Shape shape(widths, depth);
    Trials trials{shape, parameters, stems, labels, networks, samples, group, buyer, seller, permutations, weights, merges};
    int64_t branch = branching_layer(trials), blocks = Blocks(samples).count;
    Buffer<double> parts(pairs * blocks * merges);
    in_threads(threads, pairs * blocks, pairs * merges * samples * shape.body(), [&](auto next) {
        Trier trier(trials, branch);
        for (int64_t task = next(); task < pairs * blocks; task = next())
            trier.try_block(task / blocks, task % blocks, parts + task * merges);
    });
    reduce(parts, pairs, blocks, merges, samples, out);
}
