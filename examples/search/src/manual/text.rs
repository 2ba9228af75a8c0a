//! Markup to plain text: paragraphs with an empty line between them, code as it stands, a table's row in a line.

use scraper::ElementRef;
use scraper::node::Node;

/// What begins and ends a paragraph.
const BLOCKS: &[&str] = &[
    "address",
    "blockquote",
    "dd",
    "div",
    "dl",
    "dt",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "table",
    "tbody",
    "thead",
    "tr",
    "ul",
];
/// Markup that is no text of the section.
const LEFT_OUT: &[&str] = &["navheader", "navfooter", "toc", "indexterm"];

pub fn has_class(element: ElementRef, class: &str) -> bool {
    element.value().classes().any(|own| own == class)
}

/// The text of a division, without its own heading and without the divisions in it that `is_another` knows.
pub fn text_of(division: ElementRef, is_another: fn(ElementRef) -> bool) -> String {
    let mut text = Text { is_another, written: String::new(), gap: Gap::None, in_row: false };
    // The heading of the division itself is its title.
    text.children(division, |child| has_class(child, "titlepage") || child.value().name() == "h2");
    text.written
}

/// The text of an element, every white space one blank.
pub fn in_one_line(element: ElementRef) -> String {
    let text: String = element.text().collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Text {
    is_another: fn(ElementRef) -> bool,
    written: String,
    /// What is to be written before the next word.
    gap: Gap,
    /// In a table's row all is one line.
    in_row: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    #[default]
    None,
    Blank,
    Cell,
    Paragraph,
}

impl Text {
    fn children(&mut self, parent: ElementRef, is_left_out: fn(ElementRef) -> bool) {
        for child in parent.children() {
            if let Node::Text(text) = child.value() {
                self.words(&text.text);
            } else if let Some(element) = ElementRef::wrap(child)
                && !is_left_out(element)
            {
                self.element(element);
            }
        }
    }

    fn element(&mut self, element: ElementRef) {
        if (self.is_another)(element) {
            // Its anchor may be in the middle of the text: what follows is another paragraph.
            return self.widen(Gap::Paragraph);
        }
        if LEFT_OUT.iter().any(|class| has_class(element, class)) {
            return;
        }
        let name = element.value().name();
        match name {
            // The reference's own name, which is the title.
            "h2" if element
                .parent()
                .and_then(ElementRef::wrap)
                .is_some_and(|up| has_class(up, "refnamediv")) => {}
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" if !self.in_row => {
                self.widen(Gap::Paragraph);
                self.words(super::page::without_number(&in_one_line(element)));
                self.widen(Gap::Paragraph);
            }
            "pre" if !self.in_row => {
                self.widen(Gap::Paragraph);
                let code: String = element.text().collect();
                self.write(code.trim_matches('\n').trim_end());
                self.widen(Gap::Paragraph);
            }
            "tr" if !self.in_row => {
                self.widen(Gap::Paragraph);
                self.in_row = true;
                self.children(element, |_| false);
                self.in_row = false;
                self.widen(Gap::Paragraph);
            }
            "td" | "th" if self.in_row => {
                self.children(element, |_| false);
                self.widen(Gap::Cell);
            }
            _ => {
                let around = match (BLOCKS.contains(&name), self.in_row) {
                    (true, false) => Gap::Paragraph,
                    (true, true) => Gap::Blank,
                    (false, _) if name == "br" => Gap::Blank,
                    (false, _) => Gap::None,
                };
                self.widen(around);
                self.children(element, |_| false);
                self.widen(around);
            }
        }
    }

    fn words(&mut self, text: &str) {
        let is_white = |character: Option<char>| character.is_some_and(char::is_whitespace);
        if is_white(text.chars().next()) {
            self.widen(Gap::Blank);
        }
        for word in text.split_whitespace() {
            self.write(word);
            self.widen(Gap::Blank);
        }
        // The blank after the last word is there only if the text has it.
        if !text.trim().is_empty() && !is_white(text.chars().next_back()) {
            self.gap = Gap::None;
        }
    }

    fn write(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if !self.written.is_empty() {
            self.written.push_str(match self.gap {
                Gap::None => "",
                Gap::Blank => " ",
                Gap::Cell => " | ",
                Gap::Paragraph => "\n\n",
            });
        }
        self.gap = Gap::None;
        self.written.push_str(text);
    }

    fn widen(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scraper::{Html, Selector};

    fn text(html: &str) -> String {
        let tree = Html::parse_fragment(&format!("<div id=\"root\">{html}</div>"));
        let root = tree.select(&Selector::parse("#root").unwrap()).next().unwrap();
        text_of(root, |element| has_class(element, "sect2"))
    }

    #[test]
    fn white_space_is_one_blank() {
        assert_eq!(text("<p>\n  one\n  <em>two</em>,\tthree\u{a0}four </p>"), "one two, three four");
        assert_eq!(text("<p>un<em>broken</em>.</p>"), "unbroken.");
        assert_eq!(text("<p>a <em>b</em> c</p>"), "a b c");
    }

    #[test]
    fn code_stays_as_it_is() {
        assert_eq!(
            text("<p>So:<pre>\nSELECT 1\n  FROM t;\n</pre>and on</p>"),
            "So:\n\nSELECT 1\n  FROM t;\n\nand on"
        );
    }

    #[test]
    fn a_row_is_a_line() {
        assert_eq!(
            text(
                "<table><tr><th><p>Name</p></th><th>What</th></tr><tr><td><p>a</p><p>b</p></td><td><pre>c\n</pre></td></tr></table>"
            ),
            "Name | What\n\na b | c"
        );
    }

    #[test]
    fn lists_are_paragraphs() {
        assert_eq!(
            text(
                "<dl><dt>term</dt><dd><p>What it means.</p></dd></dl><ul><li><p>one</p></li><li>two</li></ul>"
            ),
            "term\n\nWhat it means.\n\none\n\ntwo"
        );
    }

    #[test]
    fn other_divisions_and_navigation_are_left_out() {
        assert_eq!(
            text(
                r#"<h2>Own heading</h2>a<div class="sect2">other</div>b<a class="indexterm">c</a><div class="toc">d</div>"#
            ),
            "a\n\nb"
        );
    }

    #[test]
    fn entities_are_what_they_stand_for() {
        assert_eq!(text("<p>a &lt;b&gt; &amp;amp; c</p>"), "a <b> &amp; c");
    }
}
