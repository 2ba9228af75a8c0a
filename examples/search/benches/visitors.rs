//! Many visitors at once, each with one question after the other and without a pause:
//!
//!     cargo bench -p pg_embed-search -- --url http://127.0.0.1:8000

use std::time::{Duration, Instant};

use clap::Parser;

const QUESTIONS: &str = include_str!("questions.txt");

#[derive(Parser)]
struct Settings {
    /// The page's address
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    #[arg(long, default_value_t = 50)]
    visitors: usize,
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// both, meaning or words
    #[arg(long, default_value = "both")]
    mode: String,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a visitor has met.
#[derive(Default)]
struct Met {
    milliseconds: Vec<f64>,
    errors: usize,
}

#[tokio::main]
async fn main() {
    let settings = Settings::parse();
    let end = Instant::now() + Duration::from_secs(settings.seconds);
    let visitors: Vec<_> = (0..settings.visitors)
        .map(|number| tokio::spawn(visit(settings.url.clone(), settings.mode.clone(), number, end)))
        .collect();
    let mut all = Met::default();
    for visitor in visitors {
        let met = visitor.await.expect("a visitor does not panic");
        all.milliseconds.extend(met.milliseconds);
        all.errors += met.errors;
    }
    all.milliseconds.sort_by(f64::total_cmp);
    let at = |share: f64| {
        all.milliseconds.get((all.milliseconds.len() as f64 * share) as usize).copied().unwrap_or_default()
    };
    println!(
        "{} visitors for {} s by {}: {:.0} searches/s, {} errors, p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms",
        settings.visitors,
        settings.seconds,
        settings.mode,
        all.milliseconds.len() as f64 / settings.seconds as f64,
        all.errors,
        at(0.5),
        at(0.95),
        at(0.99),
    );
}

async fn visit(url: String, mode: String, number: usize, end: Instant) -> Met {
    let questions: Vec<&str> = QUESTIONS.lines().collect();
    let client = reqwest::Client::new();
    let mut met = Met::default();
    let mut place = number * 7;
    while Instant::now() < end {
        place += 1;
        // A number that nobody has asked with before: sessions keep vectors of texts that come again.
        let question = format!("{} {number} {place}", questions[place % questions.len()]);
        let mut search = reqwest::Url::parse(&format!("{url}/api/search")).expect("an address");
        search.query_pairs_mut().append_pair("q", &question).append_pair("mode", &mode);
        let begin = Instant::now();
        let is_answered = match client.get(search).send().await {
            Ok(answer) => {
                answer.status().is_success() && answer.bytes().await.is_ok_and(|body| !body.is_empty())
            }
            Err(_) => false,
        };
        if is_answered {
            met.milliseconds.push(begin.elapsed().as_secs_f64() * 1000.0);
        } else {
            met.errors += 1;
        }
    }
    met
}
