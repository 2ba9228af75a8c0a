//! Window functions that look at the vectors of a partition as a whole: clusters, principal components.
//!
//! Each learns a *model* from a sample of the partition, as large as `work_mem` allows, when it is asked for the first row; then it
//! computes the answer for each row by itself. So memory is bounded however many rows there are.

mod kmeans;
mod pca;
mod window;
