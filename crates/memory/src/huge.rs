//! Large blocks of memory on huge pages.
//!
//! A step touches hundreds of megabytes; in pages of 4 KiB the first touch alone costs a good part of a second, and each
//! pass over them misses the TLB. Linux gives huge pages to who asks (`transparent_hugepage` is `madvise` on most
//! systems). Blocks that hold a whole huge page are maps of their own; those of a fraction of one, as most matrices of a
//! small model are, are cut from maps that many share, and kept for the next block of their length. Small ones go to the
//! system's allocator.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{Mutex, PoisonError},
};

/// The allocator of a binary that trains: `#[global_allocator] static A: memory::HugePages = memory::HugePages;`
pub struct HugePages;

const HUGE_BYTES: usize = 2 << 20;
/// Smaller blocks hold no whole huge page.
const LARGE_BYTES: usize = HUGE_BYTES;
/// Maps end on a border of small pages, so that no huge page is begun for the last few bytes.
const PAGE_BYTES: usize = 64 << 10;

/// Blocks of so many bytes and more are cut from shared maps, in whole ones of these.
const MIDDLE_BYTES: usize = 64 << 10;
/// Of a map that blocks share.
const SHARED_BYTES: usize = 32 << 20;

/// Where a block lives; it follows from the layout, which is the same when the block goes back.
#[derive(Clone, Copy)]
enum Home {
    System,
    /// As many [`MIDDLE_BYTES`].
    Shared(usize),
    /// A map of so many bytes.
    Own(usize),
}

impl Home {
    fn of(layout: Layout) -> Self {
        let (bytes, align) = (layout.size(), layout.align());
        match () {
            () if !cfg!(target_os = "linux") || bytes < 2 * MIDDLE_BYTES || align > HUGE_BYTES => Self::System,
            () if bytes >= LARGE_BYTES || align > MIDDLE_BYTES => Self::Own(bytes.next_multiple_of(PAGE_BYTES)),
            () => Self::Shared(bytes.div_ceil(MIDDLE_BYTES)),
        }
    }
}

/// Blocks that were given back, by length, as addresses, each holding the next one's; and what is left of the newest map.
struct Shared {
    free: [usize; LARGE_BYTES / MIDDLE_BYTES + 1],
    rest: (usize, usize),
}

static SHARED: Mutex<Shared> = Mutex::new(Shared { free: [0; LARGE_BYTES / MIDDLE_BYTES + 1], rest: (0, 0) });

impl Shared {
    /// A block of `count` times [`MIDDLE_BYTES`], and whether it is all zeros.
    fn take(count: usize) -> (*mut u8, bool) {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let head = shared.free[count];
        if head != 0 {
            let block = std::ptr::with_exposed_provenance_mut::<usize>(head);
            // SAFETY: a block that was given back holds the address of the next.
            shared.free[count] = unsafe { block.read() };
            return (block.cast(), false);
        }
        if shared.rest.1 < count * MIDDLE_BYTES {
            let left = shared.rest;
            if left.1 > 0 {
                shared.put(std::ptr::with_exposed_provenance_mut(left.0), left.1 / MIDDLE_BYTES);
            }
            let map = map(SHARED_BYTES);
            if map.is_null() {
                shared.rest = (0, 0);
                return (map, false);
            }
            shared.rest = (map.expose_provenance(), SHARED_BYTES);
        }
        let start = shared.rest.0;
        shared.rest = (start + count * MIDDLE_BYTES, shared.rest.1 - count * MIDDLE_BYTES);
        (std::ptr::with_exposed_provenance_mut(start), true)
    }

    /// The block at `start` is free.
    fn put(&mut self, start: *mut usize, count: usize) {
        // SAFETY: the block is nobody's, begins at a multiple of `MIDDLE_BYTES` and holds more than an address.
        unsafe { start.write(self.free[count]) };
        self.free[count] = start.expose_provenance();
    }
}

// SAFETY: blocks are as long and aligned as asked, and nobody else's: maps of their own, parts of maps that are handed out
// once until they come back, or the system allocator's.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Home::of(layout) {
            // SAFETY: as the caller promises.
            Home::System => unsafe { System.alloc(layout) },
            Home::Shared(count) => Shared::take(count).0,
            Home::Own(bytes) => map(bytes),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Home::of(layout) {
            // SAFETY: as the caller promises.
            Home::System => unsafe { System.alloc_zeroed(layout) },
            Home::Shared(count) => {
                let (start, is_zero) = Shared::take(count);
                if !start.is_null() && !is_zero {
                    // SAFETY: the block holds as much.
                    unsafe { start.write_bytes(0, layout.size()) };
                }
                start
            }
            // A new map is zeros, and costs nothing until it is touched.
            Home::Own(bytes) => map(bytes),
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        match Home::of(layout) {
            // SAFETY: as the caller promises.
            Home::System => unsafe { System.dealloc(start, layout) },
            Home::Shared(count) => SHARED.lock().unwrap_or_else(PoisonError::into_inner).put(start.cast(), count),
            // SAFETY: `map` made it with this length.
            Home::Own(bytes) => unsafe { unmap(start, bytes) },
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size with the old alignment is a layout.
        let new = unsafe { Layout::from_size_align_unchecked(new_bytes, layout.align()) };
        match (Home::of(layout), Home::of(new)) {
            // SAFETY: as the caller promises.
            (Home::System, Home::System) => return unsafe { System.realloc(start, layout, new_bytes) },
            (Home::Shared(before), Home::Shared(after)) if before == after => return start,
            _ => {}
        }
        // SAFETY: both blocks hold the shorter length, and do not overlap.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                std::ptr::copy_nonoverlapping(start, moved, layout.size().min(new_bytes));
                self.dealloc(start, layout);
            }
            moved
        }
    }
}

/// A new map that begins at a huge page's border; null where there is no memory.
#[cfg(target_os = "linux")]
fn map(bytes: usize) -> *mut u8 {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new map, one huge page longer than wanted; what lies outside the aligned part goes back at once.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), bytes + HUGE_BYTES, rights, kind, -1, 0);
        if start == libc::MAP_FAILED {
            return std::ptr::null_mut();
        }
        let before = start.align_offset(HUGE_BYTES);
        let aligned = start.byte_add(before);
        if before > 0 {
            libc::munmap(start, before);
        }
        libc::munmap(aligned.byte_add(bytes), HUGE_BYTES - before);
        libc::madvise(aligned, bytes, libc::MADV_HUGEPAGE);
        aligned.cast()
    }
}

/// # Safety
/// `map` gave `start` for `bytes`.
#[cfg(target_os = "linux")]
unsafe fn unmap(start: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(start.cast(), bytes) };
}

/// Elsewhere no block is large: see `huge`.
#[cfg(not(target_os = "linux"))]
fn map(_bytes: usize) -> *mut u8 {
    std::ptr::null_mut()
}

#[cfg(not(target_os = "linux"))]
unsafe fn unmap(_start: *mut u8, _bytes: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_size_are_aligned_zeroed_and_keep_their_bytes_when_they_grow() {
        for bytes in [
            1,
            4096,
            MIDDLE_BYTES,
            2 * MIDDLE_BYTES,
            3 * MIDDLE_BYTES + 5,
            LARGE_BYTES - 1,
            LARGE_BYTES,
            LARGE_BYTES + 1,
            3 * LARGE_BYTES + 4097,
        ] {
            for align in [8, 64, HUGE_BYTES] {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                // SAFETY: blocks are used within their layouts and freed with them.
                unsafe {
                    let start = HugePages.alloc_zeroed(layout);
                    assert!(!start.is_null() && start.addr().is_multiple_of(align));
                    assert!([0, bytes / 2, bytes - 1].iter().all(|at| *start.add(*at) == 0));
                    start.write(1);
                    start.add(bytes - 1).write(2);
                    let grown = HugePages.realloc(start, layout, bytes + LARGE_BYTES);
                    assert!(*grown + *grown.add(bytes - 1) >= 2);
                    HugePages.dealloc(grown, Layout::from_size_align(bytes + LARGE_BYTES, align).unwrap());
                }
            }
        }
    }

    #[test]
    fn a_block_that_comes_back_is_zeroed_before_it_is_somebody_elses() {
        let layout = Layout::from_size_align(5 * MIDDLE_BYTES + 3, 64).unwrap();
        let threads: Vec<_> = (1..5_u8)
            .map(|mark| {
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        // SAFETY: the block is used within its layout and freed with it.
                        unsafe {
                            let start = HugePages.alloc_zeroed(layout);
                            let bytes = std::slice::from_raw_parts_mut(start, layout.size());
                            assert!(bytes.iter().all(|byte| *byte == 0));
                            bytes.fill(mark);
                            assert!(bytes.iter().all(|byte| *byte == mark));
                            HugePages.dealloc(start, layout);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
