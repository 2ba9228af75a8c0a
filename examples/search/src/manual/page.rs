//! One page: what comes next, what is above, and its pieces.

use std::sync::LazyLock;

use scraper::{ElementRef, Html, Selector};

use super::text::{has_class, in_one_line, text_of};

#[derive(Debug)]
pub struct Page {
    pub title: String,
    /// File names, without an anchor.
    pub up: Option<String>,
    pub next: Option<String>,
    pub pieces: Vec<Piece>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    pub anchor: String,
    pub title: String,
    pub body: String,
}

/// What DocBook's stylesheets call the divisions that are pieces of their own. Smaller ones are part of theirs.
const DIVISIONS: &[&str] = &["sect1", "sect2", "refsect1"];
/// Links alone.
const NOT_READ: &[&str] = &["See Also"];

static HEADER_UP: LazyLock<Selector> = LazyLock::new(|| selector(".navheader a[accesskey=u]"));
static HEADER_NEXT: LazyLock<Selector> = LazyLock::new(|| selector(".navheader a[accesskey=n]"));
static CONTENT: LazyLock<Selector> = LazyLock::new(|| selector("body > div:not(.navheader):not(.navfooter)"));
static HEADING: LazyLock<Selector> = LazyLock::new(|| {
    selector(
        ":scope > .titlepage .title, :scope > .titlepage .subtitle, :scope > .refnamediv > h2, :scope > h2",
    )
});
static DIVISION: LazyLock<Selector> = LazyLock::new(|| selector("div[id]"));

fn selector(css: &str) -> Selector {
    Selector::parse(css).expect("a selector of this file")
}

impl Page {
    pub fn parse(html: &str) -> Page {
        let tree = Html::parse_document(html);
        let mut page = Page {
            title: String::new(),
            up: linked_file(&tree, &HEADER_UP),
            next: linked_file(&tree, &HEADER_NEXT),
            pieces: Vec::new(),
        };
        let Some(content) = tree.select(&CONTENT).next() else {
            return page;
        };
        page.title = title_of(content);
        page.pieces.push(Piece {
            anchor: content.attr("id").unwrap_or_default().to_string(),
            title: page.title.clone(),
            body: text_of(content, is_division),
        });
        for division in content.select(&DIVISION).filter(|&element| is_division(element)) {
            let title = title_of(division);
            if NOT_READ.contains(&title.as_str()) {
                continue;
            }
            page.pieces.push(Piece {
                anchor: division.attr("id").unwrap_or_default().to_string(),
                // "Overview" alone would tell nothing.
                title: format!("{}: {title}", page.title),
                body: text_of(division, is_division),
            });
        }
        page
    }
}

fn is_division(element: ElementRef) -> bool {
    element.attr("id").is_some() && DIVISIONS.iter().any(|class| has_class(element, class))
}

/// The file that a link of the page's header names. Nothing outside of the directory is followed.
fn linked_file(tree: &Html, link: &Selector) -> Option<String> {
    let href = tree.select(link).next()?.attr("href")?;
    let file = href.split('#').next()?;
    (file.ends_with(".html") && !file.contains(['/', '\\', ':'])).then(|| file.to_string())
}

fn title_of(division: ElementRef) -> String {
    let title = division.select(&HEADING).next().map(in_one_line).unwrap_or_default();
    without_number(&title).to_string()
}

/// "5.11. Table Partitioning" is "Table Partitioning", "Appendix M. Glossary" is "Glossary".
pub fn without_number(title: &str) -> &str {
    let numbered = ["Chapter ", "Appendix ", "Part "].iter().find_map(|kind| title.strip_prefix(kind));
    match (numbered, title.split_once(' ')) {
        (Some(rest), _) => rest.split_once(". ").map_or(title, |(_, name)| name),
        (None, Some((number, name)))
            if number.ends_with('.') && number.contains(|character: char| character.is_ascii_digit()) =>
        {
            name
        }
        _ => title,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"<div class="navheader"><table><tr><th>5.11. Table Partitioning</th></tr><tr>
        <td><a accesskey="u" href="ddl.html">Up</a></td>
        <td><a accesskey="n" href="ddl-foreign-data.html#TOP">Next</a></td></tr></table><hr /></div>"#;

    fn parse(content: &str) -> Page {
        Page::parse(&format!(
            "<html><body>{HEADER}{content}<div class=\"navfooter\">Prev Up Next</div></body></html>"
        ))
    }

    #[test]
    fn a_page_is_cut_into_its_divisions() {
        let page = parse(
            r#"<div class="sect1" id="DDL-PARTITIONING"><div class="titlepage"><div><h2 class="title">5.11.&#160;Table Partitioning</h2></div></div>
               <div class="toc"><p>Table of Contents</p></div>
               <a id="x" class="indexterm"></a><p>Tables can be
                 split.</p>
               <div class="sect2" id="OVERVIEW"><div class="titlepage"><h3 class="title">5.11.1. Overview</h3></div>
                 <p>Smaller pieces.</p>
                 <div class="sect3" id="DEEPER"><div class="titlepage"><h4 class="title">5.11.1.1. Deeper</h4></div><p>Still there.</p></div>
               </div></div>"#,
        );
        assert_eq!(page.title, "Table Partitioning");
        assert_eq!(page.up.as_deref(), Some("ddl.html"));
        assert_eq!(page.next.as_deref(), Some("ddl-foreign-data.html"));
        let piece = |anchor: &str, title: &str, body: &str| Piece {
            anchor: anchor.into(),
            title: title.into(),
            body: body.into(),
        };
        assert_eq!(
            page.pieces,
            [
                piece("DDL-PARTITIONING", "Table Partitioning", "Tables can be split."),
                piece(
                    "OVERVIEW",
                    "Table Partitioning: Overview",
                    "Smaller pieces.\n\nDeeper\n\nStill there."
                ),
            ]
        );
    }

    #[test]
    fn a_reference_page_has_its_name_and_its_parts() {
        let page = parse(
            r#"<div class="refentry" id="SQL-CREATEINDEX"><div class="titlepage"></div>
               <div class="refnamediv"><h2><span class="refentrytitle">CREATE INDEX</span></h2><p>CREATE INDEX — define a new index</p></div>
               <div class="refsynopsisdiv"><h2>Synopsis</h2><pre class="synopsis">
CREATE INDEX <em>name</em>
    ON <em>table</em>
</pre></div>
               <div class="refsect1" id="id-1.9"><h2>Description</h2><p>It makes one.</p></div>
               <div class="refsect1" id="id-1.10"><h2>See Also</h2><p>DROP INDEX</p></div></div>"#,
        );
        assert_eq!(page.title, "CREATE INDEX");
        assert_eq!(
            page.pieces[0].body,
            "CREATE INDEX — define a new index\n\nSynopsis\n\nCREATE INDEX name\n    ON table"
        );
        assert_eq!(page.pieces[1].title, "CREATE INDEX: Description");
        assert_eq!(page.pieces[1].body, "It makes one.");
        assert_eq!(page.pieces.len(), 2, "links alone are no section");
    }

    #[test]
    fn nothing_outside_of_the_manual_is_followed() {
        for href in ["https://example.org/x.html", "../x.html", "x.pdf", "/etc/x.html"] {
            let page = Page::parse(&format!(
                r#"<div class="navheader"><a accesskey="n" href="{href}">Next</a></div><div id="a"></div>"#
            ));
            assert_eq!(page.next, None, "{href}");
        }
    }

    #[test]
    fn what_is_no_page_has_no_text() {
        for html in ["", "<html></html>", "no markup", "<div", "<div class=sect1 id=>"] {
            let page = Page::parse(html);
            assert!(page.pieces.iter().all(|piece| piece.body.is_empty()), "{html}: {page:?}");
        }
    }

    #[test]
    fn numbers_are_no_part_of_a_title() {
        for (title, name) in [
            ("5.11. Table Partitioning", "Table Partitioning"),
            ("Chapter 5. Data Definition", "Data Definition"),
            ("Appendix M. Glossary", "Glossary"),
            ("Part II. The SQL Language", "The SQL Language"),
            ("E.21.1. Overview", "Overview"),
            ("CREATE INDEX", "CREATE INDEX"),
            ("pg_dump", "pg_dump"),
            ("", ""),
        ] {
            assert_eq!(without_number(title), name);
        }
    }
}
