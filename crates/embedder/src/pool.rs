//! From one vector a token to one vector a text.

use crate::spec::Pooling;

/// Pools the vectors of one text.
///
/// `hidden`: row-major `[tokens, dimensions]` of this text, padding included; `tokens`: how many rows are real
/// (padding is on the right). Returns `dimensions` values. Source: sentence-transformers' `Pooling` module.
pub fn pool(hidden: &[f32], dimensions: usize, tokens: usize, pooling: Pooling) -> Vec<f32> {
    let row = |i: usize| &hidden[i * dimensions..(i + 1) * dimensions];
    match pooling {
        Pooling::Cls => row(0).to_vec(),
        Pooling::LastToken => row(tokens - 1).to_vec(),
        Pooling::Mean => {
            let mut sum = vec![0.0; dimensions];
            for i in 0..tokens {
                for (s, x) in sum.iter_mut().zip(row(i)) {
                    *s += x;
                }
            }
            let scale = 1.0 / tokens as f32;
            sum.iter_mut().for_each(|s| *s *= scale);
            sum
        }
    }
}

/// Scales to Euclidean length 1. A zero vector stays as it is.
pub fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_takes_no_part() {
        // Three rows of two dimensions, the last one padding.
        let hidden = [1.0, 10.0, 3.0, 30.0, 1e9, 1e9];
        assert_eq!(pool(&hidden, 2, 2, Pooling::Mean), [2.0, 20.0]);
        assert_eq!(pool(&hidden, 2, 2, Pooling::Cls), [1.0, 10.0]);
        assert_eq!(pool(&hidden, 2, 2, Pooling::LastToken), [3.0, 30.0]);
    }

    #[test]
    fn normalized_length_is_one_and_zero_stays() {
        let mut vector = [3.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut huge = [3e38, 4e37];
        normalize(&mut huge);
        assert!((huge.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
        let mut zero = [0.0, 0.0];
        normalize(&mut zero);
        assert_eq!(zero, [0.0, 0.0]);
    }
}
