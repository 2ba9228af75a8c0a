//! A table with an index over pages in memory, for the tests.
#![allow(dead_code)] // each test uses a part

use ivf::build::{Encoder, Options as BuildOptions, Trained, Writer};
use ivf::check::check;
use ivf::columns::Columns;
use ivf::index::Index;
use ivf::info::{Info, info};
use ivf::insert::insert;
use ivf::layout::Tid;
use ivf::memstore::{MemError, MemStore};
use ivf::metric::Metric;
use ivf::random::SplitMix64;
use ivf::scan::{Options, Order, Scan};
use ivf::vacuum::bulk_delete;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

pub const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

/// Random vectors, the same ones in every run.
pub struct Numbers(pub SplitMix64);

impl Numbers {
    pub fn new(seed: u64) -> Numbers {
        Numbers(SplitMix64(seed))
    }

    /// About normal, mean 0, variance 1.
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.0.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }

    pub fn vector(&mut self, dims: usize) -> Vec<f32> {
        (0..dims).map(|_| self.normal()).collect()
    }

    /// Vectors around `clusters` centres, away from the origin.
    pub fn clustered(&mut self, rows: usize, dims: usize, clusters: usize) -> Vec<Vec<f32>> {
        let centres: Vec<Vec<f32>> = (0..clusters).map(|_| self.vector(dims)).collect();
        (0..rows)
            .map(|_| {
                let centre = &centres[self.0.below(clusters)];
                centre.iter().map(|c| c + 0.5 + 0.4 * self.normal()).collect()
            })
            .collect()
    }
}

/// A table with an index, as Postgres would use it.
pub struct Table {
    pub store: MemStore,
    pub index: Rc<Index>,
    pub metric: Metric,
    pub rows: BTreeMap<Tid, Vec<f32>>,
    pub next: u32,
}

impl Table {
    pub fn build(vectors: &[Vec<f32>], dims: usize, metric: Metric, bits: usize, lists: usize) -> Table {
        let mut store = MemStore::default();
        let rows: BTreeMap<Tid, Vec<f32>> = (0..).map(tid).zip(vectors.iter().cloned()).collect();
        build_into(&mut store, &rows, dims, metric, bits, lists).unwrap();
        let index = Rc::new(Index::open(&store).unwrap());
        Table { store, index, metric, next: rows.len() as u32, rows }
    }

    pub fn insert(&mut self, vector: Vec<f32>) -> Result<Tid, MemError> {
        let tid = tid(self.next);
        // The TID is used up even by a failure, as a heap's is.
        self.next += 1;
        insert(&self.store, &mut self.index, tid, &vector, &[])?;
        self.rows.insert(tid, vector);
        Ok(tid)
    }

    pub fn delete(&mut self, dead: &HashSet<Tid>) -> u64 {
        self.rows.retain(|tid, _| !dead.contains(tid));
        self.reopen();
        bulk_delete(&self.store, &self.index, &mut |tid| dead.contains(&tid)).unwrap().removed
    }

    /// As each statement does.
    pub fn reopen(&mut self) {
        self.index = Index::reopen(&self.store, Some(self.index.clone())).unwrap();
    }

    pub fn scan(&self, query: Option<&[f32]>, options: Options) -> Scan {
        Scan::new(self.index.clone(), query, options)
    }

    /// What the executor makes of a scan: exact distances, sorted, as soon as nothing nearer can come.
    pub fn search(&self, query: &[f32], k: usize, options: Options) -> Vec<(f64, Tid)> {
        let mut scan = self.scan(Some(query), options);
        let mut found: Vec<(f64, Tid)> = Vec::new();
        while let Some(hit) = scan.next(&self.store).unwrap() {
            let bound = hit.distance.unwrap();
            if found.len() >= k && found[k - 1].0 <= bound {
                break;
            }
            if let Some(vector) = self.rows.get(&hit.tid) {
                let distance = self.metric.operator(vector, query).unwrap();
                assert!(bound <= distance, "{bound} > {distance}");
                let at = found.partition_point(|&(other, _)| other <= distance);
                found.insert(at, (distance, hit.tid));
            }
        }
        found.truncate(k);
        found
    }

    pub fn tids(&self, query: &[f32], options: Options) -> HashSet<Tid> {
        self.search(query, usize::MAX, options).into_iter().map(|(_, tid)| tid).collect()
    }

    pub fn exact_search(&self, query: &[f32], k: usize) -> Vec<f64> {
        let mut all: Vec<f64> = self.rows.values().map(|v| self.metric.operator(v, query).unwrap()).collect();
        all.sort_by(f64::total_cmp);
        all.truncate(k);
        all
    }

    /// Share of the true nearest ten that the index finds.
    pub fn recall(&self, queries: &[Vec<f32>], options: Options) -> f64 {
        let mut found = 0;
        for query in queries {
            let truth = self.exact_search(query, 10);
            found += self.search(query, 10, options).iter().filter(|(d, _)| *d <= truth[9]).count();
        }
        found as f64 / (10 * queries.len()) as f64
    }

    pub fn assert_clean(&self) {
        assert_eq!(check(&self.store, 10, 1 << 20).unwrap(), Vec::<String>::new());
    }

    pub fn info(&self) -> Info {
        info(&self.store, None).unwrap()
    }
}

pub fn tid(number: u32) -> Tid {
    Tid::new(number / 100, (number % 100) as u16 + 1)
}

pub fn build_into(
    store: &mut MemStore,
    rows: &BTreeMap<Tid, Vec<f32>>,
    dims: usize,
    metric: Metric,
    bits: usize,
    lists: usize,
) -> Result<u64, MemError> {
    let options = BuildOptions { dims, bits, metric, columns: Columns::default(), lists };
    let sample = rows.values().flatten().copied().collect();
    let trained = Trained::train(&options, sample, &mut || Ok::<(), MemError>(()))?;
    let mut encoder = Encoder::new(&trained, 1 << 24);
    let mut encoded: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut take = |list: u32, row: &[u8]| {
        encoded.push((list, row.to_vec()));
        Ok::<(), MemError>(())
    };
    for (&tid, vector) in rows {
        encoder.push(tid, vector, &[])?;
        if encoder.is_full() {
            encoder.drain(&mut take)?;
        }
    }
    encoder.drain(&mut take)?;
    encoded.sort_by_key(|(list, _)| *list);
    let mut writer = Writer::new(store, &trained)?;
    for (list, row) in &encoded {
        writer.push(*list, row)?;
    }
    writer.finish(1)
}

pub fn probes(probes: usize) -> Options {
    Options {
        probes,
        recall: 0.95,
        iterative: false,
        max_probes: 32_768,
        order: Order::Bound,
        within: None,
        memory: 1 << 20,
    }
}
