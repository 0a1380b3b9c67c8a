// Linear assignment by shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987), for many dense matrices.
#include <cmath>
#include <limits>
#include <utility>

#include "workers.h"

namespace {

constexpr double INFINITE = std::numeric_limits<double>::infinity();
constexpr int64_t NONE = -1;

// Solves one matrix after another. The dual variables of rows and columns are `u` and `v`: a row is assigned a column
// whose reduced cost, cost - u - v, is 0, and no reduced cost is negative.
class Solver {
   public:
    explicit Solver(int64_t size)
        : n_(size), cost_(size * size), u_(size), v_(size), distance_(size), column_of_(size), row_of_(size),
          free_(size), before_(size), open_(size), scanned_(size), columns_(size) {}

    // Writes the permutation with the largest sum of products [n, n].
    void solve(const double* products, int64_t* permutation) {
        for (int64_t k = 0; k < n_ * n_; k++) cost_[k] = -products[k];
        reduce_columns();
        for (int pass = 0; pass < 2; pass++) reduce_rows();
        for (int64_t i = 0; i < n_; i++) u_[i] = column_of_[i] == NONE ? least_reduced(i) : reduced(i, column_of_[i]);
        for (int64_t f = 0; f < free_rows_; f++) augment(free_[f]);
        std::copy_n(column_of_ + 0, n_, permutation);
    }

   private:
    int64_t n_;
    Buffer<double> cost_, u_, v_, distance_;
    Buffer<int64_t> column_of_, row_of_, free_, before_, open_, scanned_, columns_;
    int64_t free_rows_ = 0;

    double reduced(int64_t row, int64_t column) const { return cost_[row * n_ + column] - v_[column]; }

    // The least reduced cost of a row, except in one column.
    double least_reduced(int64_t row, int64_t except = NONE) const {
        double least = INFINITE;
        for (int64_t j = 0; j < n_; j++) least = std::min(least, j == except ? INFINITE : reduced(row, j));
        return least;
    }

    void match(int64_t row, int64_t column) {
        column_of_[row] = column;
        row_of_[column] = row;
    }

    // Each column takes the row that costs least, if no other column has it. A row with one column lowers its price as
    // far as the row's next best column allows.
    void reduce_columns() {
        std::copy_n(cost_ + 0, n_, v_ + 0);
        std::fill_n(row_of_ + 0, n_, 0);
        for (int64_t i = 1; i < n_; i++)
            for (int64_t j = 0; j < n_; j++)
                if (cost_[i * n_ + j] < v_[j]) {
                    v_[j] = cost_[i * n_ + j];
                    row_of_[j] = i;
                }
        std::fill_n(column_of_ + 0, n_, NONE);
        std::fill_n(columns_ + 0, n_, 0);
        for (int64_t j = n_ - 1; j >= 0; j--) {
            int64_t row = row_of_[j];
            row_of_[j] = NONE;
            if (columns_[row]++ == 0) match(row, j);
        }
        free_rows_ = 0;
        for (int64_t i = 0; i < n_; i++) {
            if (columns_[i] == 0) free_[free_rows_++] = i;
            if (columns_[i] == 1 && n_ > 1) v_[column_of_[i]] -= least_reduced(i, column_of_[i]);
        }
    }

    // Each free row takes the column that costs it least, and lowers that column's price as far as others allow. The
    // row that had the column is free again.
    void reduce_rows() {
        int64_t next = 0, rows = free_rows_, attempts = 4 * n_;  // without an end, rounding could make two rows cycle
        free_rows_ = 0;
        while (next < rows) {
            int64_t row = free_[next++], first = 0, second = NONE;
            double least = reduced(row, 0), runner_up = INFINITE;
            for (int64_t j = 1; j < n_; j++) {
                double value = reduced(row, j);
                if (value < least) {
                    runner_up = least, second = first;
                    least = value, first = j;
                } else if (value < runner_up) {
                    runner_up = value, second = j;
                }
            }
            double lowered = v_[first] - (runner_up - least);
            bool lowers = lowered < v_[first] && attempts-- > 0;
            if (lowers) {
                v_[first] = lowered;
            } else if (row_of_[first] != NONE) {
                if (second == NONE || attempts <= 0) {
                    free_[free_rows_++] = row;
                    continue;
                }
                first = second;
            }
            int64_t previous = row_of_[first];
            match(row, first);
            if (previous == NONE) continue;
            column_of_[previous] = NONE;
            if (lowers)
                free_[--next] = previous;
            else
                free_[free_rows_++] = previous;
        }
    }

    // Assigns a free row, by the shortest path over assigned rows to a free column.
    void augment(int64_t start) {
        for (int64_t k = 0; k < n_; k++) {
            open_[k] = k;
            distance_[k] = INFINITE;
            before_[k] = start;  // so that every path has an end, even if sums of costs overflow
        }
        int64_t row = start, left = n_, scanned = 0, end = NONE;
        double reached = 0;
        while (end == NONE) {
            int64_t nearest = 0;
            double offset = reached - u_[row], least = INFINITE;
            for (int64_t k = 0; k < left; k++) {
                int64_t j = open_[k];
                double through = offset + reduced(row, j);
                if (through < distance_[j]) {
                    distance_[j] = through;
                    before_[j] = row;
                }
                if (distance_[j] < least || (distance_[j] == least && row_of_[j] == NONE)) {
                    least = distance_[j];
                    nearest = k;
                }
            }
            reached = least;
            int64_t column = open_[nearest];
            open_[nearest] = open_[--left];
            scanned_[scanned++] = column;
            row = row_of_[column];
            if (row == NONE) end = column;
        }
        u_[start] += reached;
        for (int64_t k = 0; k + 1 < scanned; k++) {
            int64_t column = scanned_[k];
            u_[row_of_[column]] += reached - distance_[column];
            v_[column] -= reached - distance_[column];
        }
        for (int64_t column = end; column != NONE;) {
            int64_t owner = before_[column], next = column_of_[owner];
            match(owner, column);
            column = owner == start ? NONE : next;
        }
    }
};

}  // namespace

// Writes the permutations [matrices, n] with the largest sums of products [matrices, n, n]. Returns whether all
// products are finite; otherwise nothing is written.
extern "C" int64_t assign(const double* products, int64_t matrices, int64_t n, int64_t* permutations, int64_t threads) {
    for (int64_t k = 0; k < matrices * n * n; k++)
        if (!std::isfinite(products[k])) return 0;
    in_threads(threads, matrices, matrices * n * n * n * 4, [&](auto next) {
        Solver solver(n);
        for (int64_t q = next(); q < matrices; q = next()) solver.solve(products + q * n * n, permutations + q * n);
    });
    return 1;
}
