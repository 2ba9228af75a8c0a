//! The topics that kmeans found, and the map that pca drew.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Html;
use tokio_postgres::Row;

use super::App;
use super::error::{Error, PageError};
use super::search::url;

/// How large the map is, and how far its points stay from the edge.
const WIDTH: f32 = 1000.0;
const HEIGHT: f32 = 680.0;
const EDGE: f32 = 20.0;
/// What a topic's name takes there.
const NAME_WIDTH: f32 = 190.0;
const NAME_HEIGHT: f32 = 24.0;

/// The topics, of each the sections nearest to its middle.
const TYPICAL: &str = "SELECT t.topic, t.sections, t.words, s.title, s.path
FROM topic AS t CROSS JOIN LATERAL (
    SELECT title, path, embedding <=> t.centroid AS distance
    FROM section_map JOIN section USING (part, id)
    WHERE topic = t.topic ORDER BY distance LIMIT 6) AS s
ORDER BY t.sections DESC, t.topic, s.distance";

const PLACED: &str = "SELECT m.topic, m.x, m.y, s.title, s.path
FROM section_map AS m JOIN section AS s USING (part, id) ORDER BY m.part, m.id";

struct Section {
    title: String,
    url: String,
}

impl Section {
    fn new(row: &Row) -> Result<Section, tokio_postgres::Error> {
        Ok(Section { title: row.try_get("title")?, url: url(row.try_get("path")?) })
    }
}

struct Topic {
    topic: i32,
    sections: i64,
    words: Vec<String>,
    typical: Vec<Section>,
}

#[derive(Template)]
#[template(path = "topics.html")]
struct TopicsPage {
    topics: Vec<Topic>,
    sql: &'static str,
}

struct Point {
    x: f32,
    y: f32,
    topic: i32,
    section: Section,
}

struct Name {
    x: f32,
    y: f32,
    text: String,
}

#[derive(Template)]
#[template(path = "map.html")]
struct MapPage {
    topics: Vec<Topic>,
    points: Vec<Point>,
    sql: &'static str,
}

impl MapPage {
    /// Where the topics' names stand: in the middle of their points, moved down where one would cover another.
    fn names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.topics.iter().map(|topic| self.name(topic)).collect();
        names.sort_by(|a, b| a.y.total_cmp(&b.y));
        for place in 1..names.len() {
            let (above, from_here) = names.split_at_mut(place);
            let name = &mut from_here[0];
            // From the top, so that a name which was moved is met by those above that are in its new place.
            above.sort_by(|a, b| a.y.total_cmp(&b.y));
            for other in above.iter().filter(|other| (other.x - name.x).abs() < NAME_WIDTH) {
                if (other.y - name.y).abs() < NAME_HEIGHT {
                    name.y = other.y + NAME_HEIGHT;
                }
            }
        }
        names
    }

    fn name(&self, topic: &Topic) -> Name {
        let mut own: Vec<&Point> = self.points.iter().filter(|point| point.topic == topic.topic).collect();
        let mut median = |of: fn(&Point) -> f32| {
            own.sort_by(|a, b| of(a).total_cmp(&of(b)));
            own.get(own.len() / 2).map_or(0.0, |point| of(point))
        };
        let text = topic.words.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(", ");
        Name { x: median(|point| point.x), y: median(|point| point.y), text }
    }

    fn of<'a>(&'a self, topic: &i32) -> impl Iterator<Item = &'a Section> {
        let topic = *topic;
        self.points.iter().filter(move |point| point.topic == topic).map(|point| &point.section)
    }
}

impl App {
    async fn topics(&self) -> Result<Vec<Topic>, Error> {
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(TYPICAL).await?;
        let mut topics: Vec<Topic> = Vec::new();
        for row in connection.query(&statement, &[]).await? {
            let topic = row.try_get("topic")?;
            if topics.last().is_none_or(|last| last.topic != topic) {
                let (sections, words) = (row.try_get("sections")?, row.try_get("words")?);
                topics.push(Topic { topic, sections, words, typical: Vec::new() });
            }
            if let Some(last) = topics.last_mut() {
                last.typical.push(Section::new(&row)?);
            }
        }
        Ok(topics)
    }

    async fn points(&self) -> Result<Vec<Point>, Error> {
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(PLACED).await?;
        let mut points = Vec::new();
        for row in connection.query(&statement, &[]).await? {
            points.push(Point {
                x: row.try_get("x")?,
                y: row.try_get("y")?,
                topic: row.try_get("topic")?,
                section: Section::new(&row)?,
            });
        }
        Ok(points)
    }
}

/// Stretches the points over the whole map.
fn spread(points: &mut [Point]) {
    let stretch = |points: &mut [Point], of: fn(&mut Point) -> &mut f32, size: f32| {
        let least = points.iter_mut().map(|point| *of(point)).fold(f32::INFINITY, f32::min);
        let most = points.iter_mut().map(|point| *of(point)).fold(f32::NEG_INFINITY, f32::max);
        for point in points {
            let place = of(point);
            // All in one place are in the middle.
            let share = if most > least { (*place - least) / (most - least) } else { 0.5 };
            *place = ((EDGE + share * (size - 2.0 * EDGE)) * 10.0).round() / 10.0;
        }
    };
    stretch(points, |point| &mut point.x, WIDTH);
    stretch(points, |point| &mut point.y, HEIGHT);
}

pub async fn topics(State(app): State<Arc<App>>) -> Result<Html<String>, PageError> {
    Ok(Html(TopicsPage { topics: app.topics().await?, sql: TYPICAL }.render()?))
}

pub async fn map(State(app): State<Arc<App>>) -> Result<Html<String>, PageError> {
    let topics = app.topics().await?;
    let mut points = app.points().await?;
    spread(&mut points);
    Ok(Html(MapPage { topics, points, sql: include_str!("../../sql/map.sql") }.render()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: f32, y: f32) -> Point {
        let section = Section { title: String::new(), url: String::new() };
        Point { x, y, topic: 0, section }
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let topic = |topic| Topic {
            topic,
            sections: 1,
            words: vec!["a".into(), "b".into(), "c".into()],
            typical: Vec::new(),
        };
        let at = |x, y, topic| Point { topic, ..point(x, y) };
        let points = vec![at(500.0, 100.0, 0), at(510.0, 101.0, 1), at(490.0, 130.0, 2), at(900.0, 100.0, 3)];
        let map = MapPage { topics: (0..4).map(topic).collect(), points, sql: "" };
        let names = map.names();
        assert_eq!(names[0].text, "a, b");
        for (place, one) in names.iter().enumerate() {
            for other in &names[..place] {
                assert!((one.x - other.x).abs() >= NAME_WIDTH || (one.y - other.y).abs() >= NAME_HEIGHT);
            }
        }
    }

    #[test]
    fn points_fill_the_map() {
        let mut points = [point(-1.0, 0.2), point(0.0, 0.2), point(1.0, 0.2)];
        spread(&mut points);
        assert_eq!(points.each_ref().map(|point| point.x), [20.0, 500.0, 980.0]);
        assert_eq!(points.each_ref().map(|point| point.y), [340.0; 3]);
        spread(&mut []);
    }
}
