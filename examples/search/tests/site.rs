//! The page as a visitor finds it: loaded, and served on a free port.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::cluster::Cluster;

pub struct Site {
    pub cluster: Cluster,
    server: Child,
    address: String,
}

pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Titles of the hits of /api/search.
    pub fn titles(&self) -> Vec<String> {
        let json = self.json();
        let hits = json["hits"].as_array().unwrap_or_else(|| panic!("no hits: {}", self.body));
        hits.iter().map(|hit| hit["title"].as_str().unwrap().to_string()).collect()
    }
}

pub fn manual() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manual")
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pg_embed-search"))
}

impl Site {
    pub async fn open() -> Site {
        let cluster = Cluster::start().await;
        load(&cluster);
        let mut server = program()
            .args(["serve", "--port", "0", "--database", &cluster.database("search_reader"), "--manual"])
            .arg(manual())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find(|word| word.starts_with("http://")).expect("an address");
        Site { cluster, server, address: address.trim_end_matches('/').to_string() }
    }

    /// `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Answer {
        let response = reqwest::get(self.url(path)).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.text().await.unwrap() }
    }

    /// Asks the API; parameters are escaped.
    pub async fn search(&self, parameters: &[(&str, &str)]) -> Answer {
        let mut url = reqwest::Url::parse(&self.url("/api/search")).unwrap();
        url.query_pairs_mut().extend_pairs(parameters);
        self.get(&url.as_str()[self.address.len()..]).await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Puts the manual into the database; what it says.
pub fn load(cluster: &Cluster) -> String {
    let output = program()
        .args(["load", "--database", &cluster.database("postgres"), "--manual"])
        .arg(manual())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}
