//! Training and assigning allocate no more than [`KMeans::memory`] says. In a program of its own, for the allocator.

use ivf::kmeans::{Assigner, KMeans};
use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the bytes in use, and the most there were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator. `realloc` is the trait's own, by way of these two, so that
// old and new block count together.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract is the same, and `block` came from `alloc` above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed) - before)
}

#[test]
fn memory_is_an_upper_bound_and_not_a_wild_one() {
    // Rows, dims, lists, values that differ, size of the values.
    for (rows, dims, lists, different, size) in [
        (0, 5, 10, 1, 1.0),
        (1, 2000, 1, 1, 1.0),
        (3000, 4, 700, 1 << 30, 1.0),
        (3000, 1, 1200, 1400, 1.0),
        (20_000, 2, 5000, 10, 1.0),
        (2000, 300, 300, 1 << 30, 1.0),
        (2000, 300, 300, 1 << 30, 1e30),
        (2000, 300, 32768, 1 << 30, 1e-30),
        (600, 2000, 40, 1 << 30, 1.0),
    ] {
        let mut state = 1u64;
        let mut element = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % different) as f32 / (1u64 << 30) as f32 * size
        };
        let sample: Vec<f32> = (0..rows * dims).map(|_| element()).collect();
        for spherical in [false, true] {
            let kmeans = KMeans { lists, dims, spherical, rotated: false, seed: 1 };
            let memory = kmeans.memory(rows);
            let (trained, training) = peak(|| kmeans.train(&sample, &mut || Ok::<(), Infallible>(())));
            let Ok(centroids) = trained;
            assert!(training <= memory, "{rows} {dims} {lists}: {training} {memory}");
            // Scaled centroids, and packed ones that fill a buffer, are counted also where there are none; and so are
            // the products of a block, which only scaled centroids need if there are many of them.
            let products =
                if lists >= 192 && dims >= 64 { 512 * lists.min(512) * size_of::<f32>() } else { 0 };
            assert!(
                different < 100 || training > (memory - products.min(memory)) / 4,
                "{rows} {dims} {lists}: {training} {memory}"
            );

            let mut found = Vec::with_capacity(rows);
            let own = size_of_val(&centroids[..]);
            let ((), assigning) = peak(|| Assigner::new(centroids, dims, false).assign(&sample, &mut found));
            assert!(own + assigning <= memory, "{rows} {dims} {lists}: {own} + {assigning} {memory}");
        }
    }
}
