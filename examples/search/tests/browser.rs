//! The page in Chromium: with a script, without one, on a phone, in the dark; pictures of it are kept.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use thirtyfour::prelude::*;

use super::cluster::is_root;
use super::site::Site;

const PATIENCE: Duration = Duration::from_secs(10);

/// A chromedriver of the test's own, on a free port.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

async fn start() -> (Driver, WebDriver) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let driver = Driver(
        Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut wanted = DesiredCapabilities::chrome();
    for argument in ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"] {
        wanted.add_arg(argument).unwrap();
    }
    if is_root() {
        wanted.add_arg("--no-sandbox").unwrap(); // Chromium does not start for root with it
    }
    let begin = Instant::now();
    loop {
        match WebDriver::new(format!("http://127.0.0.1:{port}"), wanted.clone()).await {
            Ok(browser) => return (driver, browser),
            Err(error) => assert!(begin.elapsed() < PATIENCE * 3, "no browser: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Where the pictures go.
fn screenshots() -> PathBuf {
    let default = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
    let directory = std::env::var_os("PG_EMBED_SCREENSHOTS").map_or(default, PathBuf::from);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

struct Visitor<'a> {
    browser: &'a WebDriver,
    site: &'a Site,
}

impl Visitor<'_> {
    async fn open(&self, path: &str) {
        self.browser.goto(self.site.url(path)).await.unwrap();
    }

    async fn size(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.browser.cdp().send_raw("Emulation.setDeviceMetricsOverride", size).await.unwrap();
    }

    async fn prefers(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.browser.cdp().send_raw("Emulation.setEmulatedMedia", features).await.unwrap();
    }

    async fn scripts(&self, are_disabled: bool) {
        let value = json!({"value": are_disabled});
        self.browser.cdp().send_raw("Emulation.setScriptExecutionDisabled", value).await.unwrap();
    }

    async fn picture(&self, name: &str) {
        self.browser.screenshot(&screenshots().join(format!("{name}.png"))).await.unwrap();
    }

    async fn find(&self, css: &str) -> WebElement {
        let found = self
            .browser
            .query(By::Css(css.to_string()))
            .wait(PATIENCE, Duration::from_millis(50))
            .first()
            .await;
        found.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    /// Clicks on an element, on its successor if it is replaced before.
    async fn click(&self, css: &str) {
        let begin = Instant::now();
        while let Err(error) = self.find(css).await.click().await {
            assert!(begin.elapsed() < PATIENCE, "{css}: {error}");
        }
    }

    /// Waits until an element has a text.
    async fn sees(&self, css: &str, text: &str) {
        let begin = Instant::now();
        loop {
            // What was found may be replaced before it is read.
            let seen = match self.browser.find(By::Css(css.to_string())).await {
                Ok(element) => element.text().await.unwrap_or_default(),
                Err(_) => String::new(),
            };
            if seen.contains(text) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{css} is not {text:?} but {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn script(&self, script: &str) -> serde_json::Value {
        self.browser.execute(script, vec![]).await.unwrap().json().clone()
    }

    /// Nothing is wider than the window.
    async fn fits(&self) {
        let width = self.script("return [document.documentElement.scrollWidth, window.innerWidth]").await;
        assert!(width[0].as_i64() <= width[1].as_i64(), "the page is {width} wide");
    }
}

// In several threads, as a browser that a failed test leaves is ended while its own waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_searches() {
    if !is_installed("chromedriver") || !is_installed("chromium") {
        use std::io::Write;
        // Not with eprintln!, which the test harness swallows.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED the page in a browser: chromium or chromedriver is not installed"
        );
        return;
    }
    let site = Site::open().await;
    let (_driver, browser) = start().await;
    let visitor = Visitor { browser: &browser, site: &site };
    visitor.size(1100, 900).await;
    visitor.prefers("light").await;
    types_and_follows(&visitor).await;
    looks_at_topics_and_map(&visitor).await;
    uses_the_keyboard(&visitor).await;
    visitor.size(1100, 900).await;
    has_a_phone_in_the_dark(&visitor).await;
    has_no_script(&visitor).await;
    meets_a_database_that_is_away(&visitor).await;
    browser.quit().await.unwrap();
}

async fn types_and_follows(visitor: &Visitor<'_>) {
    visitor.open("/").await;
    visitor.picture("start").await;
    visitor.find("#q").await.send_keys("dough does not rise").await.unwrap();
    // Nobody pressed a button.
    visitor.sees("#results .hits", "When the Dough Does Not Rise").await;
    visitor.sees(".took", "ms of a budget of 100 ms").await;
    visitor.sees("#said", "sections").await;
    assert!(visitor.find("mark").await.is_displayed().await.unwrap());
    visitor.picture("light").await;
    let url = visitor.browser.current_url().await.unwrap().to_string();
    assert!(url.contains("q=dough+does+not+rise"), "{url}");

    // A part, and back.
    visitor.click("select[name=part] option[value='3']").await;
    visitor.sees("#results .crumbs", "Garden").await;
    visitor.browser.back().await.unwrap();
    visitor.sees("#results .hits", "When the Dough Does Not Rise").await;

    // The SQL, and its plan without leaving the page.
    visitor.click("details.sql summary").await;
    visitor.sees("details.sql pre", "rrf_score").await;
    visitor.sees(".parameters", "'dough does not rise'").await;
    visitor.click("a.plan").await;
    visitor.sees("div.plan pre", "Execution Time").await;
    visitor.script("document.querySelector('details.sql').scrollIntoView()").await;
    visitor.picture("sql").await;

    // Words alone have another statement.
    visitor.click("input[value=words]").await;
    visitor.sees("details.sql summary", "SQL").await;
    visitor.sees("#results .hits", "When the Dough Does Not Rise").await;

    visitor.click(".hits .more a").await;
    visitor.sees("h1", "More like").await;
    visitor.picture("like").await;
    visitor.click(".hits h2 a").await;
    let url = visitor.browser.current_url().await.unwrap().to_string();
    assert!(url.contains("/manual/") && url.contains('#'), "{url}");
}

async fn looks_at_topics_and_map(visitor: &Visitor<'_>) {
    visitor.open("/topics").await;
    visitor.sees(".topics", "All of them").await;
    visitor.picture("topics").await;
    visitor.click(".topics .more a").await;
    // The list that the link names is open.
    visitor.find("details.list[open] li a").await;
    visitor.open("/map").await;
    visitor.find(".map circle").await;
    visitor.picture("map").await;
}

async fn uses_the_keyboard(visitor: &Visitor<'_>) {
    visitor.open("/").await;
    let focused = "return document.activeElement.id || document.activeElement.value || document.activeElement.className";
    assert_eq!(visitor.script(focused).await, "q");
    visitor.browser.active_element().await.unwrap().send_keys("compost smells" + Key::Enter).await.unwrap();
    visitor.sees("#results .hits", "When It Smells").await;
    // From the question over the button to the kinds of search, which the arrows change.
    visitor.find("#q").await.send_keys(Key::Tab + Key::Tab).await.unwrap();
    assert_eq!(visitor.script(focused).await, "both");
    visitor.browser.active_element().await.unwrap().send_keys(Key::Right + "").await.unwrap();
    assert_eq!(visitor.script(focused).await, "meaning");
    visitor.script("document.activeElement.blur()").await;
    visitor.open("/topics").await;
    visitor.find("body").await.send_keys(Key::Tab + "").await.unwrap();
    assert_eq!(visitor.script(focused).await, "skip");
    // Whatever can be changed has a name.
    visitor.open("/?q=bread").await;
    let nameless = visitor
        .script("return [...document.querySelectorAll('input, select, progress')].filter(of => !of.labels.length).length")
        .await;
    assert_eq!(nameless, 0);
}

async fn has_a_phone_in_the_dark(visitor: &Visitor<'_>) {
    visitor.prefers("dark").await;
    visitor.open("/?q=how+do+I+mend+a+flat+tyre").await;
    visitor.picture("dark").await;
    visitor.size(360, 740).await;
    for path in
        ["/", "/?q=how+do+I+mend+a+flat+tyre", "/topics", "/map", "/explain?q=bread", "/like?section=2.1"]
    {
        visitor.open(path).await;
        visitor.fits().await;
    }
    visitor.open("/?q=how+do+I+mend+a+flat+tyre").await;
    visitor.picture("phone-dark").await;
    visitor.prefers("light").await;
    visitor.picture("phone").await;
    visitor.size(1100, 900).await;
}

async fn has_no_script(visitor: &Visitor<'_>) {
    visitor.scripts(true).await;
    visitor.open("/").await;
    visitor.find("#q").await.send_keys("harvest potatoes").await.unwrap();
    visitor.click("#search button").await;
    visitor.sees(".hits", "Potatoes: Harvest").await;
    visitor.click("details.sql summary").await;
    visitor.click("a.plan").await;
    visitor.sees("pre.plan", "Execution Time").await;
    visitor.picture("explain").await;
    visitor.scripts(false).await;
}

async fn meets_a_database_that_is_away(visitor: &Visitor<'_>) {
    visitor.open("/").await;
    visitor.site.cluster.stop();
    visitor.find("#q").await.send_keys("icing").await.unwrap();
    visitor.sees("#results .error", "The database is away").await;
    visitor.picture("away").await;
    visitor.site.cluster.boot();
    // It is tried again by itself.
    visitor.sees("#results .hits", "Icing").await;
    visitor.sees(".count", "section").await;
}
