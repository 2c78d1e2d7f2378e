//! `spec apply` with the corpus of hostile archives that the parser has as well: each is refused, and nothing is left behind, whether its
//! machine is new or was there before.

#[path = "../../../specsign/tests/suite/hostile.rs"]
mod hostile;
#[path = "../../../specsign/tests/suite/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;

use hostile::{Hostile, Stream, with};
use toehold_specsign::Sha256Digest;

use crate::spec_support::machines::{Node, Says, Tree, Version, document, tree};
use crate::spec_support::web::Page;
use crate::support::Done;

/// A node that such archives are for, and what was there before.
struct Target {
    node: Node,
    serial: u64,
    app: Option<Tree>,
    /// Every path at the root and beside it.
    paths: BTreeSet<String>,
}

impl Target {
    /// Without the machine: the first list could not be followed.
    fn new() -> Self {
        let mut target = Self { node: Node::new(), serial: 0, app: None, paths: BTreeSet::new() };
        let (tar, sums) = with(&[]);
        target.apply(Page::Status(404, Vec::new()), &version(&tar, sums)).ends(3);
        target.seen()
    }

    /// With a good version of it.
    fn settled() -> Self {
        let mut target = Self { node: Node::new(), serial: 0, app: None, paths: BTreeSet::new() };
        let (tar, sums) = with(&[]);
        let version = version(&tar, sums);
        target.apply(Page::Good(version.archive.clone()), &version).ends(0);
        let app = target.node.live("app").unwrap();
        assert_eq!((app["bin/a"].mode, app["SHA256SUMS"].mode), (0o755, 0o644));
        target.seen()
    }

    fn seen(self) -> Self {
        Self { app: self.node.live("app"), paths: self.paths(), ..self }
    }

    fn paths(&self) -> BTreeSet<String> {
        tree(self.node.directory.path()).unwrap().into_keys().collect()
    }

    /// Applies a list with this version alone, whose archive is this page.
    fn apply(&mut self, page: Page, version: &Version) -> Done {
        self.serial += 1;
        self.node.web.serve("/a.tgz", page);
        let entry = version.entry(&self.node.web.url("/a.tgz"));
        self.node.publish(&document(&[entry], &Says { serial: self.serial, ..Says::default() }));
        self.node.apply(&["--json"])
    }

    fn refuses(&mut self, what: &str, version: &Version, reason: &str) {
        let done = self.apply(Page::Good(version.archive.clone()), version);
        assert_eq!(done.code, 3, "{what}: {}", done.stderr);
        let told = done.json()["machines"]["app"]["why"].as_str().unwrap().to_owned();
        assert!(told.contains(reason), "{what}: {told}");
        assert_eq!(self.node.live("app"), self.app, "{what}");
        for empty in ["unpacking", "staged", "trash"] {
            assert_eq!(self.node.private(empty), Vec::<String>::new(), "{what}: {empty}");
        }
        assert_eq!(self.paths(), self.paths, "{what}");
    }
}

fn version(tar: &[u8], sums: Sha256Digest) -> Version {
    packed(support::gzip(tar), sums)
}

fn packed(archive: Vec<u8>, sums: Sha256Digest) -> Version {
    Version { name: "app".to_owned(), archive, sums, tree: Tree::new() }
}

fn all_refused(cases: &[Hostile]) {
    let (mut new, mut settled) = (Target::new(), Target::settled());
    for case in cases {
        let version = version(&case.tar, case.sums);
        new.refuses(&case.what, &version, case.reason);
        settled.refuses(&case.what, &version, case.reason);
    }
}

#[test]
fn bombs_holes_damage_and_what_is_behind_the_end_leave_nothing() {
    let (mut new, mut settled) = (Target::new(), Target::settled());
    for Stream { what, archive, sums, reason } in hostile::streams() {
        let version = packed(archive, sums);
        new.refuses(what, &version, reason);
        settled.refuses(what, &version, reason);
    }
}

#[test]
fn paths_that_escape_or_have_two_readings_leave_nothing() {
    all_refused(&hostile::paths());
    for outside in ["/app/x", "/etc/x"] {
        assert!(!Path::new(outside).exists(), "{outside}");
    }
}

#[test]
fn links_and_devices_leave_nothing() {
    all_refused(&hostile::kinds());
}

#[test]
fn sizes_that_say_two_things_leave_nothing() {
    all_refused(&hostile::sizes());
}

#[test]
fn strange_headers_and_wrong_lists_leave_nothing() {
    all_refused(&hostile::headers());
    all_refused(&hostile::lists());
}

#[test]
fn another_top_directory_leaves_nothing() {
    let (mut cases, sums) = (Vec::new(), support::sums_of(&[("a", b"a")]));
    for top in ["other/", "App/", "app2/", "./other/"] {
        let members =
            [support::directory(top), support::file(&format!("{top}a"), b"a"), support::file(&format!("{top}SHA256SUMS"), &sums)];
        cases.push(Hostile {
            what: top.to_owned(),
            tar: support::tar(&members),
            sums: Sha256Digest::of(&sums),
            reason: "not below",
        });
    }
    all_refused(&cases);
}
