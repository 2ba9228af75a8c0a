//! What the tests of the index share: vectors, tables of them, searches, and what a sound index is.

use std::collections::BTreeMap;
use std::io::Write;

use postgres::Client;

use crate::cluster::{rows, value};

/// An operator class and its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub opclass: &'static str,
    pub operator: &'static str,
}

pub const L2: Metric = Metric { opclass: "vector_l2_ops", operator: "<->" };
pub const INNER_PRODUCT: Metric = Metric { opclass: "vector_ip_ops", operator: "<#>" };
pub const COSINE: Metric = Metric { opclass: "vector_cosine_ops", operator: "<=>" };
pub const METRICS: [Metric; 3] = [L2, INNER_PRODUCT, COSINE];

/// The plan that reads the table, and the one that reads the index.
pub const BY_SORTING: &str = "SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = on";
pub const BY_INDEX: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";
/// Every list from the start, so that the answer is exact.
pub const BY_WHOLE_INDEX: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL ivf.probes = 32768";

/// Random numbers, the same in every run (splitmix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// 0..n
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in -1..1.
    pub fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Uniform in the cube from -1 to 1.
    pub fn vector(&mut self, dims: usize) -> Vec<f32> {
        (0..dims).map(|_| self.number()).collect()
    }

    pub fn vectors(&mut self, count: usize, dims: usize) -> Vec<Vec<f32>> {
        (0..count).map(|_| self.vector(dims)).collect()
    }
}

/// Vectors around centers, as embeddings lie around topics; different numbers, different centers. The spread is that
/// of a third of the centers' own, where nothing else is said.
#[derive(Clone)]
pub struct Clusters {
    random: Random,
    centers: Vec<Vec<f32>>,
    spread: f32,
}

impl Clusters {
    pub fn new(seed: u64, centers: usize, dims: usize) -> Clusters {
        let mut random = Random(seed);
        let centers = random.vectors(centers, dims);
        Clusters { random, centers, spread: 0.33 }
    }

    /// The wider, the less do the clusters tell of who is near whom, and the more lists hold the near ones.
    pub fn spread(self, spread: f32) -> Clusters {
        Clusters { spread, ..self }
    }

    /// Other vectors around the same centers.
    pub fn reseed(&mut self, seed: u64) {
        self.random = Random(seed);
    }

    pub fn vector(&mut self) -> Vec<f32> {
        let center = self.random.below(self.centers.len());
        let (random, spread) = (&mut self.random, self.spread);
        self.centers[center].iter().map(|x| x + spread * random.number()).collect()
    }

    pub fn vectors(&mut self, count: usize) -> Vec<Vec<f32>> {
        (0..count).map(|_| self.vector()).collect()
    }
}

/// The vector as SQL writes it, without the quotes.
pub fn text(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// Copies vectors into the columns (id int, v vector) of a table; their ids count up from `first`.
#[track_caller]
pub fn copy(client: &mut Client, table: &str, first: i32, vectors: &[Vec<f32>]) {
    let mut writer = client.copy_in(&format!("COPY {table} (id, v) FROM STDIN (FORMAT binary)")).unwrap();
    // https://www.postgresql.org/docs/current/sql-copy.html: signature, flags, length of the extension.
    writer.write_all(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0").unwrap();
    for (id, vector) in (first..).zip(vectors) {
        let mut row = vec![];
        row.extend(2i16.to_be_bytes());
        row.extend(4i32.to_be_bytes());
        row.extend(id.to_be_bytes());
        row.extend((4 + 4 * vector.len() as i32).to_be_bytes());
        row.extend((vector.len() as i16).to_be_bytes());
        row.extend(0i16.to_be_bytes());
        row.extend(vector.iter().flat_map(|x| x.to_be_bytes()));
        writer.write_all(&row).unwrap();
    }
    writer.write_all(&(-1i16).to_be_bytes()).unwrap();
    writer.finish().unwrap();
}

/// Makes a table (id int, v vector) of vectors whose ids count up from 1.
#[track_caller]
pub fn make_table(client: &mut Client, table: &str, vectors: &[Vec<f32>]) {
    let dims = vectors[0].len();
    client
        .batch_execute(&format!(
            "CREATE TABLE {table} (id int, v vector({dims})) WITH (autovacuum_enabled = false)"
        ))
        .unwrap();
    copy(client, table, 1, vectors);
    client.batch_execute(&format!("VACUUM ANALYZE {table}")).unwrap();
}

#[track_caller]
pub fn make_index(client: &mut Client, index: &str, table: &str, metric: Metric, options: &str) {
    let with = if options.is_empty() { String::new() } else { format!("WITH ({options})") };
    let sql = format!("CREATE INDEX {index} ON {table} USING ivf (v {}) {with}", metric.opclass);
    client.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The rows of a query under settings that hold for it alone.
#[track_caller]
pub fn rows_under(client: &mut Client, settings: &str, sql: &str) -> Vec<Vec<String>> {
    rows(client, &format!("BEGIN; {settings}; {sql}; ROLLBACK"))
}

/// The plan under settings that hold for it alone.
#[track_caller]
pub fn plan_under(client: &mut Client, settings: &str, sql: &str) -> String {
    rows_under(client, settings, &format!("EXPLAIN (COSTS OFF) {sql}")).concat().join("\n")
}

/// A row of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    pub id: i32,
    pub distance: f64,
}

/// The rows of `SELECT id, distance`.
#[track_caller]
pub fn found(client: &mut Client, settings: &str, sql: &str) -> Vec<Found> {
    rows_under(client, settings, sql)
        .iter()
        .map(|row| Found { id: row[0].parse().unwrap(), distance: row[1].parse().unwrap() })
        .collect()
}

/// `SELECT id, distance FROM table ORDER BY distance`, with what follows.
pub fn search(table: &str, metric: Metric, query: &[f32], rest: &str) -> String {
    let (operator, query) = (metric.operator, text(query));
    format!("SELECT id, v {operator} '{query}' FROM {table} ORDER BY v {operator} '{query}' {rest}")
}

/// The answers are the same but for the order of rows at equal distances and, when there is a LIMIT, but for which of
/// the rows at the last distance are there.
#[track_caller]
pub fn assert_same_answer(exact: &[Found], answer: &[Found], limited: bool, what: &str) {
    let distances = |rows: &[Found]| rows.iter().map(|row| row.distance.to_bits()).collect::<Vec<_>>();
    assert_eq!(distances(answer), distances(exact), "{what}: other distances");
    let mut groups: BTreeMap<u64, (Vec<i32>, Vec<i32>)> = BTreeMap::new();
    for (exact, answer) in exact.iter().zip(answer) {
        let group = groups.entry(exact.distance.to_bits()).or_default();
        group.0.push(exact.id);
        group.1.push(answer.id);
    }
    let last = exact.last().map(|row| row.distance.to_bits());
    for (distance, (mut exact, mut answer)) in groups {
        exact.sort();
        answer.sort();
        if limited && Some(distance) == last {
            exact.dedup();
            answer.dedup();
            assert_eq!(answer.len(), exact.len(), "{what}: a row comes twice");
        } else {
            assert_eq!(answer, exact, "{what}: other rows at distance {}", f64::from_bits(distance));
        }
    }
}

/// The part of the exact answers that the searches find. Any row no farther than the last exact one counts.
#[track_caller]
pub fn recall(
    client: &mut Client,
    table: &str,
    metric: Metric,
    queries: &[Vec<f32>],
    limit: usize,
    settings: &str,
) -> f64 {
    let mut hits = 0;
    for query in queries {
        let sql = search(table, metric, query, &format!("LIMIT {limit}"));
        let exact = found(client, BY_SORTING, &sql);
        let answer = found(client, &format!("{BY_INDEX}; {settings}"), &sql);
        let mut ids: Vec<i32> = answer.iter().map(|row| row.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), answer.len()), (limit, limit), "a row comes twice, or too few do");
        let farthest = exact.last().unwrap().distance;
        hits += answer.iter().filter(|row| row.distance <= farthest).count();
    }
    hits as f64 / (queries.len() * limit) as f64
}

/// What `ivf_check` complains of.
#[track_caller]
pub fn problems(client: &mut Client, index: &str) -> Vec<String> {
    rows(client, &format!("SELECT * FROM ivf_check('{index}')")).concat()
}

/// The index is well formed, and complete as [`assert_complete`] says. The check waits for transactions that write.
#[track_caller]
pub fn assert_sound(client: &mut Client, index: &str, table: &str, metric: Metric, condition: &str) {
    assert_eq!(problems(client, index), [""; 0], "ivf_check('{index}')");
    assert_complete(client, index, table, metric, condition);
}

/// A scan of the whole index gives every row that it is to hold, once, in the order of distance. `condition` is that of
/// the rows that it is to hold, after WHERE.
#[track_caller]
pub fn assert_complete(client: &mut Client, index: &str, table: &str, metric: Metric, condition: &str) {
    let query = value(
        client,
        &format!("SELECT coalesce((SELECT v FROM {table} WHERE v IS NOT NULL LIMIT 1)::text, '')"),
    );
    if query.is_empty() {
        return; // a table of no vectors
    }
    let operator = metric.operator;
    let sql = format!(
        "SELECT id, v {operator} '{query}' FROM {table} WHERE {condition} ORDER BY v {operator} '{query}'"
    );
    let plan = plan_under(client, BY_WHOLE_INDEX, &sql);
    assert!(plan.contains(&format!("Index Scan using {index} ")), "{plan}");
    // One snapshot for both.
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let mut of = |settings: &str| {
        let rows = rows(client, &format!("{settings}; {sql}"));
        let parse =
            |row: &Vec<String>| Found { id: row[0].parse().unwrap(), distance: row[1].parse().unwrap() };
        rows.iter().map(parse).collect::<Vec<Found>>()
    };
    let answer = of(BY_WHOLE_INDEX);
    let exact =
        of("SET LOCAL enable_sort = on; SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off");
    client.batch_execute("COMMIT").unwrap();
    let ids = |rows: &[Found]| {
        let mut ids: Vec<i32> = rows.iter().map(|row| row.id).collect();
        ids.sort();
        ids
    };
    let (in_index, in_table) = (ids(&answer), ids(&exact));
    let missing: Vec<&i32> = in_table.iter().filter(|id| in_index.binary_search(id).is_err()).collect();
    assert!(missing.is_empty(), "{index}: rows {missing:?} of {table} are missing");
    let mut once = in_index.clone();
    once.dedup();
    assert_eq!(once.len(), in_index.len(), "{index}: a row comes twice");
    assert_same_answer(&exact, &answer, false, index);
}
