// One pass of training of each of many MLPs. A network is trained by one thread, and stays in its cache.
//
// A minibatch is processed in blocks of samples. Activations and their gradients are rows [samples, units]; units are
// padded to whole vectors. Weights are stored transposed, in panels [inputs, PANEL] of outputs.
#include <cmath>

#include "vectors.h"
#include "workers.h"

namespace {

constexpr int64_t BLOCK = 48;  // samples; 8 full tiles

struct Layer {
    int64_t inputs, outputs;
    int64_t width;   // the outputs, padded
    int64_t weight;  // offset of the panels in the padded parameters
    int64_t bias;
    int64_t flat;      // offset of the layer in the flat parameters
    int64_t reversed;  // offset of the panels of inputs

    int64_t panel(int64_t column) const { return weight + column * inputs; }
    int64_t lanes(int64_t column) const { return std::min<int64_t>(PANEL, width - column); }
};

struct Shape {
    std::vector<Layer> layers;
    int64_t padded = 0, flat = 0, padded_reversed = 0;
    int64_t units = 0;  // the outputs of all layers, padded

    Shape(const int64_t* widths, int64_t depth) {
        for (int64_t l = 0; l < depth; l++) {
            Layer layer{widths[l], widths[l + 1], rounded(widths[l + 1]), padded, 0, flat, padded_reversed};
            layer.bias = padded + layer.inputs * layer.width;
            padded = layer.bias + layer.width;
            flat += (layer.inputs + 1) * layer.outputs;
            units += layer.width;
            padded_reversed += l > 0 ? rounded(layer.inputs) * layer.width : 0;
            layers.push_back(layer);
        }
    }
};

// --- flat parameters to padded ones, and back ---------------------------------------------------------------------

void pack(const Shape& shape, const float* flat, float* padded) {
    for (const Layer& layer : shape.layers) {
        const float* from = flat + layer.flat;
        for (int64_t o = 0; o < layer.outputs; o += PANEL)
            transpose(from + o * layer.inputs, layer.inputs, std::min<int64_t>(PANEL, layer.outputs - o), layer.inputs,
                padded + layer.panel(o), layer.lanes(o));
        std::copy_n(from + layer.inputs * layer.outputs, layer.outputs, padded + layer.bias);
    }
}

void unpack(const Shape& shape, const float* padded, float* flat) {
    for (const Layer& layer : shape.layers) {
        float* to = flat + layer.flat;
        for (int64_t o = 0; o < layer.outputs; o += PANEL)
            transpose(padded + layer.panel(o), layer.lanes(o), layer.inputs, std::min<int64_t>(PANEL, layer.outputs - o),
                to + o * layer.inputs, layer.inputs);
        std::copy_n(padded + layer.bias, layer.outputs, to + layer.inputs * layer.outputs);
    }
}

// --- products of a layer ------------------------------------------------------------------------------------------

// Calls part(lanes, column) for each panel; `lanes` is the number of its vectors.
template <class Part>
inline __attribute__((always_inline)) void for_panels(int64_t width, Part part) {
    for (int64_t column = 0; column < width; column += PANEL) {
        if (width - column > LANES)
            part(Size<2>(), column);
        else
            part(Size<1>(), column);
    }
}

// The outputs [samples, width] of a layer, with ReLU unless it is the last.
template <bool LAST>
void forward(const Layer& layer, const float* parameters, const float* const* rows, int64_t samples, float* out) {
    for_panels(layer.width, [&](auto lanes, int64_t column) {
        for_rows(samples, [&](auto size, int64_t row) {
            constexpr int R = size, C = lanes;
            Vec sum[R][C];
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++) sum[r][c] = load(parameters + layer.bias + column + c * LANES);
            add_product(sum, rows + row, parameters + layer.panel(column), layer.inputs);
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++)
                    store(out + (row + r) * layer.width + column + c * LANES, LAST ? sum[r][c] : relu(sum[r][c]));
        });
    });
}

// Turns a layer's inputs [samples, their width], which are the outputs of a ReLU, into their gradients.
void backward(
    const Layer& layer, const float* reversed, const float* const* gradients, int64_t samples, float* inputs) {
    int64_t width = rounded(layer.inputs);
    for_panels(width, [&](auto lanes, int64_t column) {
        for_rows(samples, [&](auto size, int64_t row) {
            constexpr int R = size, C = lanes;
            Vec sum[R][C] = {};
            add_product(sum, gradients + row, reversed + column * layer.width, layer.outputs);
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++) {
                    float* place = inputs + (row + r) * width + column + c * LANES;
                    store(place, load(place) <= 0 ? Vec{} : sum[r][c]);
                }
        });
    });
}

// The weights in panels [width, PANEL] of inputs, from those in panels of outputs.
void reverse(const Layer& layer, const float* parameters, float* reversed) {
    int64_t width = rounded(layer.inputs);
    for (int64_t o = 0; o < layer.outputs; o += PANEL)
        for (int64_t i = 0; i < layer.inputs; i += PANEL) {
            int64_t lanes = std::min<int64_t>(PANEL, width - i);
            transpose(parameters + layer.panel(o) + i * layer.lanes(o), layer.lanes(o),
                std::min<int64_t>(PANEL, layer.inputs - i), layer.lanes(o), reversed + i * layer.width + o * lanes, lanes);
        }
}

// Adds the gradients of a layer's weights and biases, or writes them in the first block of a minibatch.
void add_gradients(const Layer& layer, const float* const* inputs, const float* outputs, int64_t samples, bool first,
    float* gradient) {
    for_panels(layer.width, [&](auto lanes, int64_t column) {
        constexpr int C = lanes;
        for_rows(layer.inputs, [&](auto size, int64_t row) {
            constexpr int R = size;
            float* to = gradient + layer.panel(column) + row * C * LANES;
            Vec sum[R][C];
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++) sum[r][c] = first ? Vec{} : load(to + (r * C + c) * LANES);
            for (int64_t s = 0; s < samples; s++) {
                Vec output[C];
                for (int c = 0; c < C; c++) output[c] = load(outputs + s * layer.width + column + c * LANES);
                const float* input = inputs[s] + row;
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
                    for (int c = 0; c < C; c++) sum[r][c] += input[r] * output[c];
            }
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++) store(to + (r * C + c) * LANES, sum[r][c]);
        });
        float* bias = gradient + layer.bias + column;
        for (int c = 0; c < C; c++) {
            Vec sum = first ? Vec{} : load(bias + c * LANES);
            for (int64_t s = 0; s < samples; s++) sum += load(outputs + s * layer.width + column + c * LANES);
            store(bias + c * LANES, sum);
        }
    });
}

// --- the loss ------------------------------------------------------------------------------------------------------

// Turns the logits [samples, width] into their gradients: softmax minus one-hot label, times the weight of a sample.
// Eight samples are transposed at a time; there is room for that behind the last sample.
void to_gradients(
    float* logits, int64_t classes, const int64_t* labels, int64_t samples, float weight, float* columns) {
    int64_t width = rounded(classes);
    for (int64_t s = 0; s < samples; s += LANES) {
        float* rows = logits + s * width;
        for (int64_t c = 0; c < width; c += LANES) transpose_block(rows + c, width, columns + c * LANES, LANES);
        Vec most = load(columns), sum{};
        for (int64_t c = 1; c < classes; c++) most = larger(most, load(columns + c * LANES));
        for (int64_t c = 0; c < classes; c++) {
            Vec power = exp_of_negative(load(columns + c * LANES) - most);
            store(columns + c * LANES, power);
            sum += power;
        }
        Vec scale = weight / sum;
        for (int64_t c = 0; c < classes; c++) store(columns + c * LANES, load(columns + c * LANES) * scale);
        for (int64_t k = 0; k < std::min<int64_t>(LANES, samples - s); k++) columns[labels[s + k] * LANES + k] -= weight;
        for (int64_t c = classes; c < width; c++) store(columns + c * LANES, Vec{});
        for (int64_t c = 0; c < width; c += LANES) transpose_block(columns + c * LANES, LANES, rows + c, width);
    }
}

// --- optimizers ----------------------------------------------------------------------------------------------------

struct Optimizer {
    int64_t kind;  // 0: SGD, 1: SGD with momentum, 2: Adam
    double rate, momentum, beta1, beta2, epsilon;
};

// The gradient becomes the new state where there is one to keep. `one` and `two` are the padded tensors of the state.
void update(const Optimizer& by, int64_t size, float* parameters, const float* gradient, float* one, float* two,
    double* steps) {
    if (by.kind == 0) {
        for (int64_t k = 0; k < size; k += LANES)
            store(parameters + k, load(parameters + k) - (float)by.rate * load(gradient + k));
    } else if (by.kind == 1) {
        for (int64_t k = 0; k < size; k += LANES) {
            Vec velocity = load(one + k) * (float)by.momentum + load(gradient + k);
            store(one + k, velocity);
            store(parameters + k, load(parameters + k) - (float)by.rate * velocity);
        }
    } else {
        *steps += 1;
        float rate = (float)(by.rate / (1 - std::pow(by.beta1, *steps)));
        float correction = (float)(1 - std::pow(by.beta2, *steps));
        float fresh = (float)(1 - by.beta1), fresh_square = (float)(1 - by.beta2);
        for (int64_t k = 0; k < size; k++) {
            float mean = one[k] + fresh * (gradient[k] - one[k]);
            float square = two[k] * (float)by.beta2 + fresh_square * gradient[k] * gradient[k];
            one[k] = mean;
            two[k] = square;
            parameters[k] -= mean / (std::sqrt(square / correction) + (float)by.epsilon) * rate;
        }
    }
}

// --- a pass --------------------------------------------------------------------------------------------------------

struct Data {
    const float* inputs;  // [samples of the dataset, features]
    const int64_t* labels;
    int64_t batch_size;
};

// The memory in which a thread trains one network after another.
class Trainer {
   public:
    Buffer<float> parameters, one, two;  // padded; the last two are the optimizer's state

    Trainer(const Shape& shape, const Data& data, const Optimizer& optimizer)
        : parameters(shape.padded),
          one(shape.padded),
          two(shape.padded),
          shape_(shape),
          data_(data),
          optimizer_(optimizer),
          gradient_(shape.padded),
          reversed_(shape.padded_reversed),
          units_(BLOCK * shape.units),
          columns_(LANES * shape.layers.back().width),
          labels_(BLOCK),
          rows_(shape.layers.size() + 1, std::vector<const float*>(BLOCK)) {
        float* units = units_;
        for (size_t l = 0; l < shape.layers.size(); l++) {
            outputs_.push_back(units);
            for (int64_t s = 0; s < BLOCK; s++) rows_[l + 1][s] = units + s * shape.layers[l].width;
            units += BLOCK * shape.layers[l].width;
        }
    }

    void pass(const int64_t* samples, int64_t size, double* steps) {
        for (int64_t start = 0; start < size; start += data_.batch_size) {
            minibatch(samples + start, std::min(data_.batch_size, size - start));
            update(optimizer_, shape_.padded, parameters, gradient_, one, two, steps);
        }
    }

   private:
    const Shape& shape_;
    const Data& data_;
    const Optimizer& optimizer_;
    Buffer<float> gradient_, reversed_, units_, columns_;
    std::vector<int64_t> labels_;
    std::vector<float*> outputs_;                  // of each layer, [BLOCK, width]; then the gradients of these
    std::vector<std::vector<const float*>> rows_;  // the inputs of each layer, then the logits

    void minibatch(const int64_t* samples, int64_t size) {
        for (size_t l = 1; l < shape_.layers.size(); l++)
            reverse(shape_.layers[l], parameters, reversed_ + shape_.layers[l].reversed);
        int64_t blocks = (size + BLOCK - 1) / BLOCK;
        for (int64_t b = 0, start = 0; b < blocks; b++) {
            int64_t count = (size - start) / (blocks - b);
            block(samples + start, count, 1.0f / size, b == 0);
            start += count;
        }
    }

    void block(const int64_t* samples, int64_t size, float weight, bool first) {
        const std::vector<Layer>& layers = shape_.layers;
        size_t last = layers.size() - 1;
        for (int64_t s = 0; s < size; s++) {
            rows_[0][s] = data_.inputs + samples[s] * layers[0].inputs;
            labels_[s] = data_.labels[samples[s]];
        }
        for (size_t l = 0; l < last; l++) forward<false>(layers[l], parameters, rows_[l].data(), size, outputs_[l]);
        forward<true>(layers[last], parameters, rows_[last].data(), size, outputs_[last]);
        to_gradients(outputs_[last], layers[last].outputs, labels_.data(), size, weight, columns_);
        for (size_t l = last; l > 0; l--) {
            add_gradients(layers[l], rows_[l].data(), outputs_[l], size, first, gradient_);
            backward(layers[l], reversed_ + layers[l].reversed, rows_[l + 1].data(), size, outputs_[l - 1]);
        }
        add_gradients(layers[0], rows_[0].data(), outputs_[0], size, first, gradient_);
    }
};

}  // namespace

// Trains `networks` networks in place, each for one pass over its first sizes[r] samples of samples[r]. `widths` are the
// numbers of inputs, of units of each hidden layer and of classes. `one`, `two` and `steps` are the optimizer's state;
// SGD keeps none, SGD with momentum the first, and Adam all.
extern "C" void train(const int64_t* widths, int64_t depth, int64_t networks, float* parameters, const float* inputs,
    const int64_t* labels, const int64_t* samples, int64_t columns, const int64_t* sizes, int64_t batch_size,
    const Optimizer* optimizer, float* one, float* two, double* steps, int64_t threads) {
    Shape shape(widths, depth);
    Data data{inputs, labels, batch_size};
    int64_t operations = 0;
    for (int64_t r = 0; r < networks; r++) operations += 3 * shape.flat * std::min(sizes[r], columns);
    in_threads(threads, networks, operations, [&](auto next) {
        Trainer trainer(shape, data, *optimizer);
        std::vector<std::pair<float*, float*>> tensors = {{parameters, trainer.parameters}};
        if (one) tensors.push_back({one, trainer.one});
        if (two) tensors.push_back({two, trainer.two});
        for (int64_t r = next(); r < networks; r = next()) {
            for (auto [flat, padded] : tensors) pack(shape, flat + r * shape.flat, padded);
            trainer.pass(samples + r * columns, std::min(sizes[r], columns), steps ? steps + r : nullptr);
            for (auto [flat, padded] : tensors) unpack(shape, padded, flat + r * shape.flat);
        }
    });
}
