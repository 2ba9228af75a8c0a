//! `ambuild` and `ambuildempty`: train on a sample, encode every row, sort by list, write each list once.

use std::convert::Infallible;
use std::ffi::CStr;
use std::time::{SystemTime, UNIX_EPOCH};

use ivf::build::{self, Encoder, Trained, Writer};
use ivf::index::Index;
use ivf::layout::Tid;
use ivf::measure::{self, Example};
use ivf::store::IndexError;
use ivf::train::RowSort;
use pgrx::pg_sys::ForkNumber::{self, INIT_FORKNUM, MAIN_FORKNUM};
use pgrx::{pg_guard, pg_sys};

use super::columns::IndexColumns;
use super::page::{NewFork, Pages};
use super::parallel;
use super::rows::{Share, Source};
use super::sample::{Plan, Sample, check_dimensions, check_limit};
use super::sort::{Role, Sort};
use super::{COLUMN, OfIndex, check_interrupts, metric_of, options};
use crate::error::{Error, IvfError, OrRaise};

/// Pages of the table that are read first, to learn how many rows there are.
const FIRST_BLOCKS: u32 = 16;
/// Rows among them that are enough to tell: their number is then known within some 5 %.
const FIRST_ROWS: u64 = 400;
/// Rows between two reports of progress, so that reporting takes no time that counts.
const REPORT_ROWS: i64 = 1024;

/// The least KiB that a sort works with, as Postgres has it (tuplesort.c).
pub const LEAST_SORT: i32 = 64;

/// What a build is doing, for `pg_stat_progress_create_index`.
#[derive(Clone, Copy)]
#[repr(i64)]
pub enum Phase {
    /// Postgres's own number.
    Initialize = pg_sys::PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE as i64,
    Sample,
    Train,
    Assign,
    Load,
    TryOut,
}

impl Phase {
    pub fn name(number: i64) -> Option<&'static CStr> {
        [
            (Phase::Initialize, c"initializing"),
            (Phase::Sample, c"sampling"),
            (Phase::Train, c"training"),
            (Phase::Assign, c"assigning tuples"),
            (Phase::Load, c"loading tuples"),
            (Phase::TryOut, c"measuring recall"),
        ]
        .into_iter()
        .find_map(|(phase, name)| (phase as i64 == number).then_some(name))
    }

    fn start(self) {
        report(pg_sys::PROGRESS_CREATEIDX_SUBPHASE, self as i64);
    }
}

fn report(parameter: u32, value: i64) {
    // SAFETY: a parameter of CREATE INDEX's progress.
    unsafe { pg_sys::pgstat_progress_update_param(parameter as i32, value) }
}

/// `ambuild`
#[pg_guard]
pub unsafe extern "C-unwind" fn build(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: Postgres passes an open table, a new and empty index on it, and what belongs to them.
    unsafe {
        let source = Source { heap, index, info };
        let (heap_tuples, index_tuples) = match prepare(&source).or_raise() {
            Some((options, sample)) => {
                Phase::Train.start();
                let Sample { mut vectors, mut tids, .. } = sample;
                let examples = build::hold_out(&mut vectors, &mut tids, options.dims, &options);
                let trained = Trained::train(&options, vectors, &mut check_interrupts).or_raise_for(index);
                let counts = load(&source, &trained);
                try_out(index, examples).or_raise_for(index);
                counts
            }
            None => {
                write_without_dimensions(index, MAIN_FORKNUM).or_raise();
                (source.for_each(Share::Whole, |_| ()), 0.0)
            }
        };
        let result =
            pg_sys::palloc0(size_of::<pg_sys::IndexBuildResult>()).cast::<pg_sys::IndexBuildResult>();
        (*result).heap_tuples = heap_tuples;
        (*result).index_tuples = index_tuples;
        result
    }
}

/// What the index will be like, and the vectors to train on; `None` if neither a type nor a row tells the dimensions.
///
/// # Safety
/// As for [`Source::for_each`].
unsafe fn prepare(source: &Source) -> Result<Option<(build::Options, Sample)>, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let memory = maintenance_work_mem() as usize * 1024;
        let columns = IndexColumns::of(source.index)?.stored();
        let declared = declared_dimensions(source.index);
        if let Some(dims) = declared {
            check_limit(dims)?;
        } else if !super::is_on_expression(source.index) {
            return Err(IvfError::NoDimensions.into());
        }
        Phase::Sample.start();
        let survey = survey(source, declared, memory / 4);
        let Some(dims) = declared.or(survey.dims) else { return Ok(None) };
        check_limit(dims)?;

        let rows = survey.rows_of_table();
        let options = options::Options::of(source.index);
        let lists = options.lists.unwrap_or_else(|| build::default_lists(rows));
        let metric = metric_of(source.index)?;
        let options = build::Options { dims, bits: options.bits, metric, columns, lists };
        let wanted = build::sample_rows(&options, rows, memory)
            .map_err(|needed| IvfError::Memory { needed, available: memory })?;
        if survey.has_whole_table() && survey.rows <= wanted as u64 {
            return Ok(Some((options, survey)));
        }
        // A whole page a sample row would read more of a table of short rows than it has to.
        let blocks = (wanted as f64 / survey.density().max(f64::MIN_POSITIVE)).ceil() as u32;
        drop(survey);
        let plan = Plan { blocks, rows: wanted, bytes: memory };
        Ok(Some((options, Sample::take(source, Some(dims), plan))))
    }
}

/// A first sample that tells the number of rows (the planner's statistics may be missing, and do not know an index's
/// condition), and the dimensions where no type says them.
///
/// # Safety
/// As for [`Source::for_each`].
unsafe fn survey(source: &Source, dims: Option<usize>, bytes: usize) -> Sample {
    let mut blocks = FIRST_BLOCKS;
    loop {
        // SAFETY: the caller's promise.
        let sample = unsafe { Sample::take(source, dims, Plan { blocks, rows: usize::MAX, bytes }) };
        if sample.rows >= FIRST_ROWS || sample.read_whole_table() {
            return sample;
        }
        // Few rows a page, or few that are in a partial index.
        blocks = blocks.saturating_mul(8);
    }
}

/// Rows of the table that were read, NULLs included, and rows that were indexed.
#[derive(Clone, Copy)]
pub struct Counts {
    pub read: f64,
    pub indexed: u64,
}

/// Writes the index. Returns the rows of the table, and those of the index.
///
/// # Safety
/// As for [`Source::for_each`].
unsafe fn load(source: &Source, trained: &Trained) -> (f64, f64) {
    Phase::Assign.start();
    let memory = maintenance_work_mem();
    // SAFETY: the caller's promise; the leader outlives the sort.
    unsafe {
        let workers = parallel::workers(source, |participants| share_of_sort(trained, memory, participants));
        let leader = parallel::Leader::launch(source, workers, trained);
        let sort_memory = share_of_sort(trained, memory, 1).unwrap_or(LEAST_SORT);
        let (counts, mut sort) = match &leader {
            None => {
                let mut sort = Sort::new(sort_memory, Role::Alone);
                let counts = encode(source, Share::Whole, trained, memory, &mut sort);
                (counts, sort)
            }
            Some(leader) => {
                leader.take_part(source, trained);
                let counts = leader.wait();
                (counts, Sort::new(sort_memory, leader.sort()))
            }
        };
        sort.sort();

        Phase::Load.start();
        report(pg_sys::PROGRESS_CREATEIDX_TUPLES_TOTAL, counts.indexed as i64);
        let mut fork = NewFork::of(source.index, MAIN_FORKNUM);
        let index_tuples = write(&mut fork, trained, &mut sort).or_raise_for(source.index);
        drop(sort);
        fork.finish();
        if let Some(leader) = leader {
            leader.finish();
        }
        (counts.read, index_tuples as f64)
    }
}

/// Measures how far scans have to read, with rows that the lists were not made of.
///
/// # Safety
/// `index` is open and has been written.
unsafe fn try_out(index: pg_sys::Relation, examples: Vec<(Tid, Vec<f32>)>) -> Result<(), IndexError> {
    Phase::TryOut.start();
    // SAFETY: the caller's promise.
    let pages = unsafe { Pages::of(index) };
    let engine = Index::open(&pages)?;
    let example =
        |(tid, vector): (Tid, Vec<f32>)| Example { tid: Some(tid), query: engine.space.query(&vector) };
    let memory = maintenance_work_mem() as usize * 1024;
    measure::try_out(&pages, &engine, examples.into_iter().map(example).collect(), memory)
}

/// KiB that each of so many processes has for its sort, when all of them together have `memory` KiB; `None` if that is
/// too little for so many, as each has the centroids too.
pub fn share_of_sort(trained: &Trained, memory: i32, participants: i32) -> Option<i32> {
    let share = memory / participants;
    let rest = share - i32::try_from(trained.memory(share as usize * 1024) / 1024).unwrap_or(share);
    // A quarter is left for what a sort does not count: its rows' last block, of up to 8 MB, is allocated whole.
    let rest = rest - rest / 4;
    (participants == 1 || rest >= share / 4).then_some(rest.max(LEAST_SORT))
}

/// Encodes the rows that fall to this process, and pushes them. `memory`: KiB of this process.
///
/// # Safety
/// As for [`Source::for_each`].
pub unsafe fn encode(
    source: &Source,
    share: Share,
    trained: &Trained,
    memory: i32,
    sort: &mut Sort,
) -> Counts {
    let dims = trained.options().dims;
    // SAFETY: the caller's promise.
    let columns = unsafe { IndexColumns::of(source.index).or_raise() };
    let mut numbers = Vec::new();
    let mut encoder = Encoder::new(trained, memory as usize * 1024);
    let mut indexed = 0;
    let mut drain = |encoder: &mut Encoder| {
        let Ok(()) = encoder.drain(|list, row| {
            indexed += 1;
            sort.push(list, row);
            Ok::<(), Infallible>(())
        });
    };
    // SAFETY: the caller's promise.
    let read = unsafe {
        source.for_each(share, |row| {
            let vector = row.vector();
            check_dimensions(dims, vector.len()).or_raise();
            row.read(&columns, &mut numbers);
            encoder.push(row.tid, &vector, &numbers).or_raise_for(source.index);
            if encoder.is_full() {
                drain(&mut encoder);
            }
        })
    };
    drain(&mut encoder);
    Counts { read, indexed }
}

/// What one of several processes does: encodes its part of the rows, and sorts them for the leader.
///
/// # Safety
/// As for [`Source::for_each`] and [`Sort::new`]; `participants` is what [`parallel::workers`] allowed, and the leader.
pub unsafe fn encode_part(
    source: &Source,
    part: Share,
    trained: &Trained,
    participants: i32,
    sharedsort: *mut pg_sys::Sharedsort,
) -> Counts {
    let memory = maintenance_work_mem();
    let sort_memory = share_of_sort(trained, memory, participants).unwrap_or(LEAST_SORT);
    // SAFETY: the caller's promise.
    unsafe {
        let mut sort = Sort::new(sort_memory, Role::Worker(sharedsort));
        let counts = encode(source, part, trained, memory / participants, &mut sort);
        sort.sort();
        counts
    }
}

fn write(fork: &mut NewFork, trained: &Trained, sort: &mut Sort) -> Result<u64, IndexError> {
    let mut writer = Writer::new(fork, trained)?;
    let mut done = 0;
    while let Some((list, row)) = sort.next() {
        writer.push(list, row)?;
        done += 1;
        if done % REPORT_ROWS == 0 {
            report(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, done);
        }
    }
    report(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, done);
    writer.finish(now())
}

/// `ambuildempty`: what an unlogged index is reset to after a crash. It is asked for when the index itself has been
/// built, which knows the dimensions.
#[pg_guard]
pub unsafe extern "C-unwind" fn build_empty(index: pg_sys::Relation) {
    // SAFETY: Postgres passes an open index whose initial fork is empty.
    unsafe {
        if declared_dimensions(index).is_none() {
            write_without_dimensions(index, INIT_FORKNUM).or_raise();
            return;
        }
        let built = Index::open(&Pages::of(index)).or_raise_for(index);
        let options = build::Options {
            dims: built.geometry.dims,
            bits: built.geometry.bits,
            metric: built.space.metric(),
            columns: built.geometry.columns,
            lists: 1,
        };
        let trained = Trained::train(&options, Vec::new(), &mut check_interrupts).or_raise_for(index);
        let mut fork = NewFork::of(index, INIT_FORKNUM);
        Writer::new(&mut fork, &trained).and_then(|writer| writer.finish(now())).or_raise_for(index);
        fork.finish();
    }
}

/// # Safety
/// As for [`NewFork::of`].
unsafe fn write_without_dimensions(index: pg_sys::Relation, fork: ForkNumber::Type) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = options::Options::of(index).bits;
        let mut fork = NewFork::of(index, fork);
        let columns = IndexColumns::of(index)?.stored();
        build::write_without_dimensions(&mut fork, metric_of(index)?, bits, columns).or_raise_for(index);
        fork.finish();
        Ok(())
    }
}

/// The dimensions of the column's type, `vector(n)`; `None` for `vector`.
///
/// # Safety
/// `index` is an open index.
unsafe fn declared_dimensions(index: pg_sys::Relation) -> Option<usize> {
    let (mut datatype, mut typmod, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
    // SAFETY: the caller's promise.
    unsafe {
        let column = COLUMN as pg_sys::AttrNumber;
        pg_sys::get_atttypetypmodcoll((*index).rd_id, column, &mut datatype, &mut typmod, &mut collation);
    }
    usize::try_from(typmod).ok()
}

/// In KiB.
fn maintenance_work_mem() -> i32 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::maintenance_work_mem }
}

/// Microseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
