//! The weight cache: what ONNX Runtime makes of a model's weights, kept in files that every process maps.
//!
//! ```text
//! DIRECTORY/lock                     locked by the process that builds an entry
//! DIRECTORY/building.PID/            the entry that a process builds, or that a crash left behind
//! DIRECTORY/KEY/graph.onnx           the optimised graph
//! DIRECTORY/KEY/weights              its weights, prepacked; ONNX Runtime maps this file
//! DIRECTORY/KEY/manifest.json        lengths and hashes of the two, and whose they are
//! ```
//!
//! A key covers everything that the files depend on, so that an entry is right or damaged, and never out of date. Files
//! are never changed once they are in place: processes map them. A new entry is renamed into place as a whole.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use memmap2::{Advice, Mmap};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::Hasher;

/// Version of the layout above, and of the options that a graph is saved with.
const FORMAT: u32 = 1;

const GRAPH: &str = "graph.onnx";
/// The graph refers to the weights by this name.
pub const WEIGHTS: &str = "weights";
const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";
/// Followed by the number of the process: if the directory was removed with the lock in it, two may build at once.
const BUILDING: &str = "building";

/// Between two looks whether another process has finished building.
const POLL: Duration = Duration::from_millis(10);

/// Nobody waits longer for another process: it may have been stopped, and a server that starts must not hang on it.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Of the file system's free space an entry may take one part in this many: Postgres needs it more.
const FREE_SPACE_SHARE: u64 = 2;

/// An entry is at most this many times as large as the model's file: weights and their prepacked copies. Measured:
/// 1.5 for all-minilm-l6-v2, 1.6 for gte-small's shape.
const MAX_GROWTH: u64 = 2;

/// Bytes of a file that are hashed at once. Measured: the fastest of 64 kB to 1 MB.
const CHUNK_BYTES: usize = 128 * 1024;

/// A file as it was when it was written.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    bytes: u64,
    /// XXH3, 128 bits, in hexadecimal digits.
    pub hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    key: String,
    /// The path of the model's ONNX file, in whatever encoding: an entry goes when the file is gone, or has become
    /// another one.
    model: Vec<u8>,
    graph: Fingerprint,
    weights: Fingerprint,
}

/// The place of one model's entry.
pub struct WeightCache<'a> {
    directory: &'a Path,
    model: &'a Path,
    /// Of the model's file.
    fingerprint: Fingerprint,
    key: String,
}

impl<'a> WeightCache<'a> {
    /// The entry in `directory` for the ONNX file `model`, whose fingerprint is given, as `runtime` prepares it.
    pub fn new(
        directory: &'a Path,
        model: &'a Path,
        fingerprint: Fingerprint,
        runtime: &str,
    ) -> WeightCache<'a> {
        let Fingerprint { bytes, hash } = &fingerprint;
        let key = format!("{FORMAT}\n{runtime}\n{}\n{bytes}\n{hash}", processor());
        WeightCache { directory, model, fingerprint, key: hex(XxHash3_128::oneshot(key.as_bytes())) }
    }

    fn entry(&self) -> PathBuf {
        self.directory.join(&self.key)
    }

    /// Tells one entry from another that has taken its place since.
    pub fn stamp(&self) -> Option<(u64, SystemTime)> {
        let manifest = fs::metadata(self.entry().join(MANIFEST)).ok()?;
        Some((manifest.ino(), manifest.modified().ok()?))
    }

    /// The entry's graph, if the entry is there and every byte of it is as it was written.
    pub fn graph(&self) -> Option<PathBuf> {
        let entry = self.entry();
        let manifest = read_manifest(&entry)?;
        let whole = manifest.key == self.key
            && map_fingerprint(&entry.join(GRAPH)).ok()? == manifest.graph
            && map_fingerprint(&entry.join(WEIGHTS)).ok()? == manifest.weights;
        whole.then(|| entry.join(GRAPH))
    }

    /// Waits until no other process builds an entry. One at a time: building takes several times the memory of the
    /// model, and whoever has waited may find the entry built.
    pub fn lock(&self) -> io::Result<Lock> {
        fs::create_dir_all(self.directory)?;
        let start = Instant::now();
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(self.directory.join(LOCK))?;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Lock {
                        _file: file,
                        building: self.directory.join(format!("{BUILDING}.{}", std::process::id())),
                    });
                }
                Err(TryLockError::WouldBlock) => {
                    if start.elapsed() > MAX_WAIT {
                        let reason =
                            format!("another process has held its lock for {} s", MAX_WAIT.as_secs());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                    }
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Makes an empty directory to build the entry in; returns where its graph is to be written.
    pub fn begin(&self, lock: &Lock) -> io::Result<PathBuf> {
        // What a process has left behind that was killed while it held the lock.
        for found in fs::read_dir(self.directory)? {
            let found = found?;
            if found.file_name().as_bytes().starts_with(BUILDING.as_bytes()) {
                remove(&found.path())?;
            }
        }
        let free = free_space(self.directory)?;
        let wanted = self.fingerprint.bytes * MAX_GROWTH;
        if free / FREE_SPACE_SHARE < wanted {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("it may take {wanted} bytes, and no more than half of the {free} free ones"),
            ));
        }
        fs::create_dir(&lock.building)?;
        Ok(lock.building.join(GRAPH))
    }

    /// Puts the entry that was built into place, and removes those that it replaces; returns its graph.
    ///
    /// Errors: also [`InvalidData`](io::ErrorKind::InvalidData) if the model is not the one any more that the key is
    /// made from.
    pub fn finish(&self, lock: &Lock) -> io::Result<PathBuf> {
        let building = &lock.building;
        if read_fingerprint(self.model)? != self.fingerprint {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the model's file has changed meanwhile"));
        }
        let manifest = Manifest {
            key: self.key.clone(),
            model: self.model.as_os_str().as_bytes().to_vec(),
            graph: map_fingerprint(&building.join(GRAPH))?,
            weights: map_fingerprint(&building.join(WEIGHTS))?,
        };
        fs::write(building.join(MANIFEST), serde_json::to_vec_pretty(&manifest)?)?;
        for file in [GRAPH, WEIGHTS, MANIFEST] {
            File::open(building.join(file))?.sync_all()?;
        }
        File::open(building)?.sync_all()?;
        remove(&self.entry())?;
        fs::rename(building, self.entry())?;
        File::open(self.directory)?.sync_all()?;
        self.sweep()?;
        Ok(self.entry().join(GRAPH))
    }

    /// Removes the entries of the same model file as it was before, of files that are gone, and what is no entry.
    fn sweep(&self) -> io::Result<()> {
        for found in fs::read_dir(self.directory)? {
            let path = found?.path();
            if path == self.entry() || path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            let in_use = read_manifest(&path).is_some_and(|manifest| {
                let model = Path::new(OsStr::from_bytes(&manifest.model));
                model != self.model && model.exists()
            });
            if !in_use {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Held while an entry is built. The operating system takes it from a process that ends.
pub struct Lock {
    _file: File,
    building: PathBuf,
}

impl Drop for Lock {
    /// Removes what is left of an entry that was not finished, before another process has the lock.
    fn drop(&mut self) {
        // What cannot be removed now is in the way of the next process that builds, which will say so.
        let _ = remove(&self.building);
    }
}

fn read_manifest(entry: &Path) -> Option<Manifest> {
    serde_json::from_slice(&fs::read(entry.join(MANIFEST)).ok()?).ok()
}

/// Removes a file or directory if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The fingerprint of a model's file. Reads the whole file: neither its times nor its inode are sure to change with it (a
/// read-only image has the same ones for each of its versions), and a vector made with other weights than the model's
/// would be wrong without a sign. Does not map it: cut short meanwhile by who writes to it, it would end the process.
pub fn read_fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Fingerprint { bytes, hash: hex(hasher.finish_128()) }),
            read => {
                bytes += read as u64;
                hasher.write(&buffer[..read]);
            }
        }
    }
}

/// Of a file of the cache, which is about to be mapped anyway. Measured: 10 ms for 218 MB, where reading takes 45 ms.
///
/// The kernel is asked for the pages first: one that it cannot read is an error then; touching it would end the process.
fn map_fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let file = File::open(path)?;
    // A directory cannot be mapped, but has a length, too.
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: nobody changes a file of the cache, or makes it shorter, once it has its name.
    let content = unsafe { Mmap::map(&file)? };
    let mut hasher = Hasher::new();
    for (i, chunk) in content.chunks(CHUNK_BYTES).enumerate() {
        // Linux before 5.14 cannot.
        if content.advise_range(Advice::PopulateRead, i * CHUNK_BYTES, chunk.len()).is_err() {
            return read_fingerprint(path);
        }
        hasher.write(chunk);
    }
    Ok(Fingerprint { bytes: content.len() as u64, hash: hex(hasher.finish_128()) })
}

/// Maps the weights beside `graph` once more where ONNX Runtime has mapped them, without the right to write.
///
/// ONNX Runtime asks for that right and makes no use of it. The kernel has to count such pages as memory that every
/// process may come to need for itself, and forks and allocations fail where it does not overcommit
/// (`vm.overcommit_memory = 2`, as Postgres's manual advises). Where it cannot be found out what is mapped, it stays so.
/// Only the session that was loaded from this graph may have mapped them. After an error the session must be neither
/// used nor dropped.
pub fn remap_read_only(graph: &Path) -> io::Result<()> {
    let found = graph.with_file_name(WEIGHTS).canonicalize().and_then(|weights| {
        let (file, maps) = (File::open(&weights)?, fs::read(MAPS)?);
        Ok((weights, file, maps))
    });
    let Ok((weights, file, maps)) = found else { return Ok(()) };
    for line in maps.split(|&byte| byte == b'\n') {
        let Some(mapping) =
            Mapping::parse(line).filter(|mapping| mapping.file == weights.as_os_str().as_bytes())
        else {
            continue;
        };
        // SAFETY: the range is a private mapping of the same part of the same file, of which nothing has been written
        // to, so that its content stays; whoever reads it while it is replaced, reads one or the other.
        let address = unsafe {
            libc::mmap(
                mapping.start as *mut libc::c_void,
                mapping.end - mapping.start,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_FIXED,
                file.as_raw_fd(),
                mapping.offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

const MAPS: &str = "/proc/self/maps";

/// A line of /proc/PID/maps: a private mapping of a file that may be written to.
struct Mapping<'a> {
    start: usize,
    end: usize,
    offset: libc::off_t,
    file: &'a [u8],
}

impl<'a> Mapping<'a> {
    /// `START-END rw-p OFFSET DEVICE INODE    FILE`, numbers in hexadecimal digits; see proc(5).
    fn parse(line: &'a [u8]) -> Option<Mapping<'a>> {
        let file = &line[line.iter().position(|&byte| byte == b'/')?..];
        let mut fields = std::str::from_utf8(&line[..line.len() - file.len()]).ok()?.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        fields.next().filter(|&rights| rights == "rw-p")?;
        Some(Mapping {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            offset: libc::off_t::from_str_radix(fields.next()?, 16).ok()?,
            file,
        })
    }
}

fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

/// Bytes that this process may still write to the file system.
fn free_space(directory: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string, and statvfs fills the struct when it returns 0.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut found) != 0 {
            return Err(io::Error::last_os_error());
        }
        found
    };
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// What tells one kind of processor from another: weights are packed for the instructions that it has.
#[cfg(target_arch = "x86_64")]
fn processor() -> String {
    use std::arch::x86_64::__cpuid_count;
    // Leaf 0: the vendor. 1: the model, and features; EBX says on which processor this runs. 7: more features. 13: EBX
    // follows from the registers that the operating system has enabled.
    let [vendor, model, more, most, enabled] =
        [(0, 0), (1, 0), (7, 0), (7, 1), (13, 0)].map(|(leaf, part)| __cpuid_count(leaf, part));
    format!(
        "x86_64 {:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x}",
        vendor.ebx,
        vendor.ecx,
        model.eax,
        model.ecx,
        model.edx,
        more.ebx,
        more.ecx,
        more.edx,
        most.eax,
        most.edx,
        enabled.ebx
    )
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> String {
    // SAFETY: asks for two numbers, 0 where the system does not know them.
    let features = unsafe { [libc::getauxval(libc::AT_HWCAP), libc::getauxval(libc::AT_HWCAP2)] };
    format!("{} {:x} {:x}", std::env::consts::ARCH, features[0], features[1])
}

#[cfg(test)]
mod tests {
    use memmap2::MmapOptions;

    use super::*;

    /// A model, and a directory that is not there yet.
    struct Place {
        folder: tempfile::TempDir,
        directory: PathBuf,
        model: PathBuf,
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().unwrap();
            let (directory, model) = (folder.path().join("a/cache"), folder.path().join("model.onnx"));
            fs::write(&model, "model").unwrap();
            Place { folder, directory, model }
        }

        fn cache(&self) -> WeightCache<'_> {
            self.cache_of(&self.model, "1.28")
        }

        fn cache_of<'a>(&'a self, model: &'a Path, runtime: &str) -> WeightCache<'a> {
            let fingerprint = read_fingerprint(model).unwrap();
            WeightCache::new(&self.directory, model, fingerprint, runtime)
        }
    }

    fn build(cache: &WeightCache, lock: &Lock) -> PathBuf {
        let graph = cache.begin(lock).unwrap();
        fs::write(&graph, "a graph").unwrap();
        fs::write(graph.with_file_name(WEIGHTS), "weights").unwrap();
        cache.finish(lock).unwrap()
    }

    #[test]
    fn an_entry_is_found_as_long_as_nothing_it_depends_on_has_changed() {
        let place = Place::new();
        let cache = place.cache();
        assert_eq!(cache.graph(), None);
        let lock = cache.lock().unwrap();
        let graph = build(&cache, &lock);
        assert_eq!(cache.graph(), Some(graph.clone()));
        assert_eq!(place.cache().graph(), Some(graph));
        assert_eq!(place.cache_of(&place.model, "1.29").graph(), None);
        fs::write(&place.model, "MODEL").unwrap();
        let changed = place.cache();
        assert_eq!(changed.graph(), None);
        // The new entry takes the place of the old one.
        build(&changed, &lock);
        assert_eq!((cache.graph(), changed.graph().is_some()), (None, true));
    }

    #[test]
    fn a_damaged_entry_is_not_one() {
        let place = Place::new();
        let cache = place.cache();
        let lock = cache.lock().unwrap();
        for file in [GRAPH, WEIGHTS, MANIFEST] {
            let path = build(&cache, &lock).with_file_name(file);
            let manifest = read_manifest(&cache.entry()).unwrap();
            let whole = fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                fs::write(&path, &damaged).unwrap();
                // Which file the manifest says that the model is matters to nobody but the one who cleans up.
                let other_model = || {
                    file == MANIFEST
                        && read_manifest(&cache.entry()).is_some_and(|found| found.model != manifest.model)
                };
                assert!(cache.graph().is_none() || other_model(), "{file}, byte {at}");
            }
            for content in [&whole[..whole.len() - 1], b"", &[&whole[..], b"}"].concat()] {
                fs::write(&path, content).unwrap();
                assert_eq!(cache.graph(), None, "{file}");
            }
            fs::remove_file(&path).unwrap();
            assert_eq!(cache.graph(), None);
            fs::create_dir(&path).unwrap();
            assert_eq!(cache.graph(), None);
        }
        fs::remove_dir_all(cache.entry()).unwrap();
        fs::write(cache.entry(), "a file").unwrap();
        assert_eq!(cache.graph(), None);
        build(&cache, &lock);
        assert!(cache.graph().is_some());
    }

    #[test]
    fn what_nobody_needs_is_removed() {
        let place = Place::new();
        let directory = &place.directory;
        let models = ["gone", "kept", "new"].map(|name| place.folder.path().join(name));
        for model in &models {
            fs::write(model, model.as_os_str().as_bytes()).unwrap();
        }
        let [gone, kept, new] = models.each_ref().map(|model| place.cache_of(model, "1.28"));
        let lock = gone.lock().unwrap();
        build(&gone, &lock);
        build(&kept, &lock);
        fs::create_dir(directory.join(BUILDING)).unwrap();
        fs::write(directory.join(BUILDING).join(GRAPH), "half a").unwrap();
        fs::write(directory.join("something"), "else").unwrap();
        fs::remove_file(&models[0]).unwrap();
        build(&new, &lock);
        let mut left: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = [kept.key, new.key, LOCK.to_string()];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_mapping_keeps_its_content_and_loses_the_right_to_write() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(WEIGHTS);
        let content: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
        fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        // SAFETY: nothing writes to the file.
        let mapped = unsafe { MmapOptions::new().map_copy(&file).unwrap() };
        let rights = || {
            let maps = fs::read_to_string(MAPS).unwrap();
            let line = maps.lines().find(|line| line.ends_with(path.to_str().unwrap())).unwrap();
            line.split_whitespace().nth(1).unwrap().to_string()
        };
        assert_eq!(rights(), "rw-p");
        remap_read_only(&scratch.path().join(GRAPH)).unwrap();
        assert_eq!(rights(), "r--p");
        assert!(mapped[..] == content);
    }

    #[test]
    fn one_builds_and_the_others_wait() {
        let place = Place::new();
        let cache = place.cache();
        let held = cache.lock().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let _lock = cache.lock().unwrap();
                Instant::now()
            });
            std::thread::sleep(POLL * 3);
            let released = Instant::now();
            drop(held);
            assert!(waits.join().unwrap() >= released);
        });
    }

    #[test]
    fn a_model_that_is_replaced_meanwhile_has_no_entry() {
        let place = Place::new();
        let cache = place.cache();
        let lock = cache.lock().unwrap();
        let graph = cache.begin(&lock).unwrap();
        fs::write(&graph, "a graph").unwrap();
        fs::write(graph.with_file_name(WEIGHTS), "weights").unwrap();
        fs::write(&place.model, "MODEL").unwrap();
        let error = cache.finish(&lock).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(cache.graph(), None);
    }

    #[test]
    fn two_may_build_once_the_lock_is_gone() {
        let place = Place::new();
        let cache = place.cache();
        let first = cache.lock().unwrap();
        cache.begin(&first).unwrap();
        fs::remove_dir_all(&place.directory).unwrap();
        let mut second = cache.lock().unwrap();
        second.building = place.directory.join("building.2");
        build(&cache, &second);
        // The first has lost its place, and the entry of the second stays as it is.
        assert!(cache.finish(&first).is_err());
        assert!(cache.graph().is_some());
    }

    #[test]
    fn an_entry_that_is_not_finished_leaves_nothing() {
        let place = Place::new();
        let cache = place.cache();
        let lock = cache.lock().unwrap();
        let graph = cache.begin(&lock).unwrap();
        fs::write(&graph, "half a").unwrap();
        drop(lock);
        assert!(fs::read_dir(&place.directory).unwrap().all(|found| found.unwrap().file_name() == LOCK));
    }
}
