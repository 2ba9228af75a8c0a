//! What the server says over HTTP.

use super::cluster::model;
use super::site::{Site, load};

#[tokio::test]
async fn sections_are_found() {
    let site = Site::open().await;

    let words = site.search(&[("q", "sourdough starter"), ("mode", "words")]).await;
    assert_eq!(words.status, 200);
    assert_eq!(words.titles()[0], "Bread: Sourdough");
    let json = words.json();
    assert_eq!(json["hits"][0]["url"], "/manual/bread.html#BREAD-1");
    assert_eq!(json["hits"][0]["breadcrumb"], "Baking");
    assert!(json["hits"][0]["snippet"]["passage"].as_str().unwrap().contains("wild yeast"));
    assert_eq!(json["took_ms"]["embed"], 0.0);

    let both = site.search(&[("q", "sourdough starter")]).await;
    assert_eq!(both.titles()[0], "Bread: Sourdough");
    assert_eq!(both.json()["mode"], "both");

    // Meaning has no word in common with what it finds.
    let meaning = site.search(&[("q", "my wheel has lost its air"), ("mode", "meaning")]).await;
    assert_eq!(meaning.status, 200);
    if model() != "tiny-bert" {
        assert!(meaning.titles()[0].starts_with("Tyres"), "{:?}", meaning.titles());
    }

    for mode in ["both", "meaning", "words"] {
        let garden = site.search(&[("q", "water"), ("mode", mode), ("part", "3"), ("limit", "3")]).await;
        let json = garden.json();
        let hits = json["hits"].as_array().unwrap();
        assert!((1..=3).contains(&hits.len()), "{mode}: {json}");
        assert!(hits.iter().all(|hit| hit["part"] == 3), "{mode}: {json}");
    }

    // A part that is there has its page, and the section's anchor is in it.
    let page = site.get("/manual/bread.html").await;
    assert!(page.status == 200 && page.body.contains(r#"id="BREAD-1""#));
    assert_eq!(site.get("/manual/../tests/main.rs").await.status, 404);
    assert_eq!(site.get("/manual/%2e%2e/main.rs").await.status, 404);
}

#[tokio::test]
async fn pages_work_without_a_script() {
    let site = Site::open().await;
    let found = site.get("/?q=sourdough+starter&mode=words&part=2").await;
    assert_eq!(found.status, 200);
    for part in ["Bread: Sourdough</a>", "<mark>", "/like?section=2.", "/explain?q=", r#"value="2" selected"#]
    {
        assert!(found.body.contains(part), "{part} is not in {}", found.body);
    }
    let link = |before: &str| {
        let begin = found.body.find(before).unwrap();
        found.body[begin..].split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&")
    };
    let plan = site.get(&link("/explain?q=")).await;
    assert!(plan.status == 200 && plan.body.contains("Execution Time"), "{}", plan.body);
    let like = site.get(&link("/like?section=")).await;
    assert!(like.status == 200 && like.body.contains("More like"), "{}", like.body);
    assert!(!like.body.contains("Bread: Sourdough</a></h2>"), "a section is not like itself");
    let topics = site.get("/topics").await;
    assert!(topics.status == 200 && topics.body.contains("All of them"), "{}", topics.body);
    let map = site.get("/map").await;
    assert!(map.status == 200 && map.body.contains("<circle"), "{}", map.body);
    assert!(map.body.matches("<circle").count() > 30);
    assert_eq!(site.get("/nothing").await.status, 404);
}

#[tokio::test]
async fn bad_questions_get_a_reason() {
    let site = Site::open().await;
    let long = "x".repeat(1001);
    for (parameters, reason) in [
        (vec![], "q is missing"),
        (vec![("q", "  ")], "q is missing"),
        (vec![("q", long.as_str())], "longer than 1000"),
        (vec![("q", "a\0b")], "code 0"),
        (vec![("q", "a"), ("limit", "0")], "limit"),
        (vec![("q", "a"), ("limit", "51")], "limit"),
        (vec![("q", "a"), ("limit", "1e1")], "limit"),
        (vec![("q", "a"), ("part", "99")], "part"),
        (vec![("q", "a"), ("part", "x")], "part"),
        (vec![("q", "a"), ("mode", "sql")], "mode"),
        (vec![("q", "a"), ("q", "b")], "duplicate"),
    ] {
        let answer = site.search(&parameters).await;
        let json = answer.json();
        assert_eq!(answer.status, 400, "{parameters:?}");
        assert!(json["error"].as_str().unwrap().contains(reason), "{parameters:?}: {json}");
    }
    assert_eq!(site.get("/?q=a&mode=sql").await.status, 400);
    assert_eq!(site.get("/like?section=x").await.status, 400);
    assert_eq!(site.get("/like").await.status, 400);
    assert_eq!(site.get("/like?section=1.9999").await.status, 404);
    assert_eq!(site.get("/explain").await.status, 400);
    assert_eq!(site.get("/api/nothing").await.json()["error"], "there is no such page");
}

#[tokio::test]
async fn what_visitors_write_stays_text() {
    let site = Site::open().await;
    let count = async || -> i64 {
        let client = site.cluster.client("postgres", "search").await;
        client.query_one("SELECT count(*) FROM section", &[]).await.unwrap().get(0)
    };
    let sections = count().await;
    for text in [
        "'; DROP TABLE section; --",
        "$1 $2 {and_part} %s \\ \\' \" ` ;",
        "a & b | !c <-> (d:*) :: 'e'",
        "\"unclosed quote -minus OR AND",
        "\u{202e}\u{200b}\u{fffd}🍞 ä 漢字",
        "of the",
        "-",
    ] {
        for mode in ["both", "meaning", "words"] {
            let answer = site.search(&[("q", text), ("mode", mode)]).await;
            assert_eq!(answer.status, 200, "{text} by {mode}: {}", answer.body);
            assert_eq!(answer.json()["query"], text, "{mode}");
        }
    }
    assert_eq!(count().await, sections);

    // Both of a visitor, and of the manual, which has markup in its text.
    let page = site.get("/?q=%3Cscript%3Ealert(1)%3C/script%3E%22%27+soft+pads+for+wet+rims").await;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("<script>"), "{}", page.body);
    assert!(!page.body.contains("<b>wet"), "{}", page.body);
    assert!(page.body.contains("wet&#60;/b&#62; rims"), "{}", page.body);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let site = Site::open().await;
    let description = site.get("/api/openapi.json").await.json();
    let search = &description["paths"]["/api/search"]["get"];
    let names: Vec<_> =
        search["parameters"].as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["q", "limit", "part", "mode"]);
    for status in ["200", "400", "503"] {
        assert!(search["responses"][status].is_object(), "{search}");
    }
    // What it says of an answer is so.
    let answer = site.search(&[("q", "bread")]).await.json();
    for schema in ["Found", "Hit", "Snippet", "Took"] {
        let properties = description["components"]["schemas"][schema]["properties"].as_object().unwrap();
        let value = match schema {
            "Found" => &answer,
            "Hit" => &answer["hits"][0],
            "Snippet" => &answer["hits"][0]["snippet"],
            _ => &answer["took_ms"],
        };
        let fields: Vec<_> = value.as_object().unwrap().keys().collect();
        assert_eq!(fields.len(), properties.len(), "{schema}");
        assert!(fields.into_iter().all(|field| properties.contains_key(field)), "{schema}: {value}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_comes_back() {
    let site = Site::open().await;
    assert_eq!(site.search(&[("q", "bread")]).await.status, 200);
    site.cluster.stop();
    let away = site.search(&[("q", "bread")]).await;
    assert_eq!(away.status, 503, "{}", away.body);
    assert_eq!(away.headers["retry-after"], "2");
    assert!(away.json()["error"].as_str().unwrap().contains("does not answer"));
    let page = site.get("/?q=bread").await;
    assert_eq!(page.status, 503);
    assert!(page.body.contains("The database is away"), "{}", page.body);
    site.cluster.boot();
    assert_eq!(site.search(&[("q", "bread")]).await.status, 200);
    assert_eq!(site.get("/?q=bread").await.status, 200);
}

#[tokio::test]
async fn a_search_that_takes_too_long_is_given_up() {
    let site = std::sync::Arc::new(Site::open().await);
    let owner = site.cluster.client("postgres", "search").await;
    owner.batch_execute("BEGIN; LOCK TABLE section IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // More than there are connections: some are given up by the database, others wait for a connection in vain.
    let begin = std::time::Instant::now();
    let visitors: Vec<_> = (0..20)
        .map(|_| {
            let site = site.clone();
            tokio::spawn(async move { site.search(&[("q", "bread")]).await })
        })
        .collect();
    let mut reasons = std::collections::BTreeSet::new();
    for visitor in visitors {
        let answer = visitor.await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.body);
        reasons.insert(answer.json()["error"].as_str().unwrap().to_string());
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(10));
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    owner.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(site.search(&[("q", "bread")]).await.status, 200);
}

#[tokio::test]
async fn the_server_may_only_read() {
    let site = Site::open().await;
    let reader = site.cluster.client("search_reader", "search").await;
    reader.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    for statement in [
        "INSERT INTO part VALUES (99, 'x')",
        "UPDATE section SET title = 'x'",
        "DELETE FROM passage",
        "TRUNCATE topic",
        "DROP TABLE section_map",
        "CREATE TABLE mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "SELECT vectorizer_drop('passage')",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        assert!(reader.batch_execute(statement).await.is_err(), "{statement}");
    }
    let slow = reader.batch_execute("SELECT pg_sleep(60)").await.unwrap_err();
    assert_eq!(slow.code().unwrap().code(), "57014");
}

#[tokio::test]
async fn loading_again_changes_nothing() {
    let site = Site::open().await;
    let again = load(&site.cluster);
    assert_eq!(again, "");
    // Whatever changes is embedded, and on the map when it is loaded again.
    let owner = site.cluster.client("postgres", "search").await;
    owner
        .batch_execute("INSERT INTO section VALUES (2, 99, 'Tea', 'tea.html#TEA', '', 'Boil the water, wait five minutes.')")
        .await
        .unwrap();
    assert!(load(&site.cluster).contains("map"));
    assert_eq!(site.search(&[("q", "boil tea")]).await.titles()[0], "Tea");
}
