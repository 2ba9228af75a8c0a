//! The pages: search, more like this, EXPLAIN. Each works without a script; `/results`, `/progress` and `/explain/plan` are the
//! parts of them that the script fetches.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Html;
use serde::Deserialize;

use super::App;
use super::ask::{Ask, Like, Mode, Parameters};
use super::database::Statement;
use super::error::{Error, FragmentError, PageError};
use super::search::{self, Answer, Hit, Took};

/// What people feel as at once, in milliseconds.
const BUDGET: f64 = 100.0;
const EXAMPLES: [&str; 6] = [
    "how do I get rid of dead rows?",
    "what happens when the disk is full",
    "upgrade to a new major version",
    "let two sessions not do the same job",
    "make a copy of the server for reading",
    "why does the planner not use my index?",
];

/// How far the workers are.
#[derive(Template)]
#[template(path = "progress.html")]
pub struct Progress {
    sections: i64,
    embedded: i64,
}

/// What was found, and how.
#[derive(Template)]
#[template(path = "results.html")]
struct Results<'a> {
    parts: &'a [String],
    hits: Vec<Hit>,
    took: Took,
    statement: Statement,
    /// Names the statement to `/explain`.
    link: String,
}

#[derive(Template)]
#[template(path = "index.html")]
struct IndexPage<'a> {
    parts: &'a [String],
    ask: &'a Ask,
    results: Option<Results<'a>>,
    progress: Progress,
}

#[derive(Template)]
#[template(path = "like.html")]
struct LikePage<'a> {
    title: String,
    url: String,
    results: Results<'a>,
}

#[derive(Template)]
#[template(path = "explain.html")]
struct ExplainPage {
    statement: Statement,
    plan: String,
}

#[derive(Template)]
#[template(path = "plan.html")]
struct Plan {
    plan: String,
}

impl IndexPage<'_> {
    fn is_part(&self, number: &usize) -> bool {
        self.ask.part.and_then(|part| usize::try_from(part).ok()) == Some(*number)
    }
}

impl Results<'_> {
    fn new(parts: &[String], answer: Answer, link: String) -> Results<'_> {
        Results { parts, hits: answer.hits, took: answer.took, statement: answer.statement, link }
    }

    fn part_title(&self, part: &i16) -> &str {
        let place = usize::try_from(*part).ok().and_then(|part| part.checked_sub(1));
        place.and_then(|place| self.parts.get(place)).map_or("", String::as_str)
    }

    /// The length of a piece of the bar that shows the time, of 100 for the whole budget.
    fn share(&self, milliseconds: &f64) -> String {
        format!("{:.1}", (milliseconds / BUDGET * 100.0).min(100.0))
    }

    fn budget(&self) -> f64 {
        BUDGET
    }
}

impl Ask {
    /// As a query of an address.
    fn link(&self) -> String {
        let text =
            askama::filters::urlencode_strict(&self.text).map(|text| text.to_string()).unwrap_or_default();
        let part = self.part.map(|part| format!("&part={part}")).unwrap_or_default();
        format!("q={text}&mode={}&limit={}{part}", self.mode.name(), self.limit)
    }
}

impl App {
    async fn ask(&self, parameters: Result<Query<Parameters>, QueryRejection>) -> Result<Ask, Error> {
        let Query(parameters) = parameters?;
        Ask::new(&parameters, self.parts().await?.len())
    }

    async fn results(&self, ask: &Ask) -> Result<Option<Results<'_>>, Error> {
        if ask.text.is_empty() {
            return Ok(None);
        }
        let answer = search::search(&self.pool, ask).await?;
        Ok(Some(Results::new(self.parts().await?, answer, ask.link())))
    }

    async fn progress(&self) -> Result<Progress, Error> {
        let connection = self.pool.get().await?;
        let counted =
            "SELECT (SELECT count(*) FROM section), (SELECT count(*) FROM passage WHERE ordinal = 1)";
        let row = connection.query_one(counted, &[]).await?;
        Ok(Progress { sections: row.try_get(0)?, embedded: row.try_get(1)? })
    }
}

pub async fn index(
    State(app): State<Arc<App>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Html<String>, PageError> {
    let ask = app.ask(parameters).await?;
    let results = app.results(&ask).await?;
    let progress = app.progress().await?;
    let page = IndexPage { parts: app.parts().await?, ask: &ask, results, progress };
    Ok(Html(page.render()?))
}

pub async fn results(
    State(app): State<Arc<App>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Html<String>, FragmentError> {
    let ask = app.ask(parameters).await?;
    let results = app.results(&ask).await?;
    Ok(Html(results.map(|results| results.render()).transpose()?.unwrap_or_default()))
}

pub async fn progress(State(app): State<Arc<App>>) -> Result<Html<String>, FragmentError> {
    Ok(Html(app.progress().await?.render()?))
}

#[derive(Deserialize)]
pub struct Of {
    section: String,
}

pub async fn like(
    State(app): State<Arc<App>>,
    of: Result<Query<Of>, QueryRejection>,
) -> Result<Html<String>, PageError> {
    let Query(of) = of.map_err(Error::from)?;
    let like = Like::new(&of.section)?;
    let (title, path) = {
        let connection = app.pool.get().await.map_err(Error::from)?;
        let find =
            connection.prepare_cached("SELECT title, path FROM section WHERE part = $1 AND id = $2").await?;
        let row = connection.query_opt(&find, &[&like.part, &like.id]).await?.ok_or(Error::NotFound)?;
        (row.try_get(0)?, row.try_get::<_, String>(1)?)
    };
    let answer = search::like(&app.pool, like).await?;
    let link = format!("section={}.{}", like.part, like.id);
    let results = Results::new(app.parts().await?, answer, link);
    Ok(Html(LikePage { title, url: search::url(&path), results }.render()?))
}

/// What `/explain` is asked: a section, or a question.
#[derive(Deserialize)]
pub struct Explained {
    section: Option<String>,
}

pub async fn explain(
    State(app): State<Arc<App>>,
    section: Result<Query<Explained>, QueryRejection>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Html<String>, PageError> {
    let (statement, plan) = explained(&app, section, parameters).await?;
    Ok(Html(ExplainPage { statement, plan }.render()?))
}

pub async fn plan(
    State(app): State<Arc<App>>,
    section: Result<Query<Explained>, QueryRejection>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Html<String>, FragmentError> {
    let (_, plan) = explained(&app, section, parameters).await?;
    Ok(Html(Plan { plan }.render()?))
}

async fn explained(
    app: &App,
    section: Result<Query<Explained>, QueryRejection>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<(Statement, String), Error> {
    let Query(Explained { section }) = section?;
    let statement = match section {
        Some(section) => Like::new(&section)?.statement(),
        None => {
            let ask = app.ask(parameters).await?;
            if ask.text.is_empty() {
                return Err(Error::BadRequest("q is missing".to_string()));
            }
            ask.statement()
        }
    };
    let connection = app.pool.get().await?;
    let plan = statement.explain(&connection).await?;
    Ok((statement, plan))
}

pub async fn not_found() -> PageError {
    Error::NotFound.into()
}
