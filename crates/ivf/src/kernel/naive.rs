//! Scalar twins of the kernels: what each must compute, written as plainly as possible.
