//! Locks by which processes of this module know of each other. They are of the kind that `pg_advisory_lock` takes, in a part of
//! its numbers that SQL cannot reach. But `pg_advisory_unlock_all` reaches them, in a trigger of a table's owner that a worker
//! runs: what is held for long has to be [looked after](Held::is_held).

use pgrx::pg_sys;

/// What is locked.
#[derive(Clone, Copy)]
pub struct Tag(pg_sys::LOCKTAG);

/// SQL's own have 1 (one number) or 2 (two) here. The views of the extension know it, too.
const OF_PG_EMBED: u16 = 3;

impl Tag {
    /// In this database; `table` is one of the extension's.
    pub fn new(table: pg_sys::Oid, number: u32) -> Tag {
        // SAFETY: reads which database this process is connected to.
        Tag::advisory(unsafe { pg_sys::MyDatabaseId }, table.to_u32(), number)
    }

    /// In the whole cluster.
    pub fn of_cluster(number: u32) -> Tag {
        /// "pg_embed", as a number that nothing else has.
        const PG_EMBED: u32 = 0x7065_6d62;
        Tag::advisory(pg_sys::InvalidOid, PG_EMBED, number)
    }

    fn advisory(database: pg_sys::Oid, first: u32, second: u32) -> Tag {
        Tag(pg_sys::LOCKTAG {
            locktag_field1: database.to_u32(),
            locktag_field2: first,
            locktag_field3: second,
            locktag_field4: OF_PG_EMBED,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        })
    }

    /// This process's database itself, which DROP DATABASE and its like lock.
    pub fn of_database() -> Tag {
        // SAFETY: reads which database this process is connected to.
        let database = unsafe { pg_sys::MyDatabaseId };
        Tag(pg_sys::LOCKTAG {
            locktag_field1: 0,
            locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
            locktag_field3: database.to_u32(),
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        })
    }

    /// Takes the lock in a mode until the transaction ends; waits for it.
    pub fn share(&self) {
        // SAFETY: in a transaction, whose end releases it.
        unsafe { pg_sys::LockAcquire(&self.0, pg_sys::ShareLock as i32, false, false) };
    }

    /// Takes the lock until it is released, or the process ends, if nobody else has it.
    pub fn try_hold(&self) -> Option<Held> {
        self.try_hold_as(pg_sys::ExclusiveLock)
    }

    pub fn try_hold_as(&self, mode: u32) -> Option<Held> {
        // SAFETY: a lock of the session's is not bound to a transaction.
        let result = unsafe { pg_sys::LockAcquire(&self.0, mode as i32, true, true) };
        (result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL).then(|| Held { tag: *self, mode })
    }

    /// Whether it could be had now.
    pub fn is_free_for(&self, mode: u32) -> bool {
        self.try_hold_as(mode).is_some()
    }
}

/// A lock that is held; dropping it releases it.
pub struct Held {
    tag: Tag,
    mode: u32,
}

impl Held {
    /// Whether it still is.
    pub fn is_held(&self) -> bool {
        // SAFETY: asks this process's own table of locks.
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            return pg_sys::LockHeldByMe(&self.tag.0, self.mode as i32);
            #[cfg(not(any(feature = "pg15", feature = "pg16")))]
            return pg_sys::LockHeldByMe(&self.tag.0, self.mode as i32, false);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // While an ERROR unwinds, locks may not be touched; a process that has one ends, or its transaction.
        if !std::thread::panicking() && self.is_held() {
            // SAFETY: taken by `try_hold_as`.
            unsafe { pg_sys::LockRelease(&self.tag.0, self.mode as i32, true) };
        }
    }
}
