//! Large blocks of memory on huge pages.
//!
//! A step touches hundreds of megabytes; in pages of 4 KiB the first touch alone costs a good part of a second, and each
//! pass over them misses the TLB. Linux gives huge pages to who asks (`transparent_hugepage` is `madvise` on most
//! systems). Small blocks go to the system's allocator.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// The allocator of a binary that trains: `#[global_allocator] static A: engine::HugePages = engine::HugePages;`
pub struct HugePages;

const HUGE_BYTES: usize = 2 << 20;
/// Smaller blocks hold no whole huge page.
const LARGE_BYTES: usize = HUGE_BYTES;
/// Maps end on a border of small pages, so that no huge page is begun for the last few bytes.
const PAGE_BYTES: usize = 64 << 10;

// SAFETY: large blocks are maps of their own, as long and aligned as asked; all others are the system allocator's. Which
// is which follows from the layout, which is the same when a block goes back.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match huge(layout) {
            // SAFETY: as the caller promises.
            None => unsafe { System.alloc(layout) },
            Some(bytes) => map(bytes),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match huge(layout) {
            // SAFETY: as the caller promises.
            None => unsafe { System.alloc_zeroed(layout) },
            // A new map is zeros, and costs nothing until it is touched.
            Some(bytes) => map(bytes),
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        match huge(layout) {
            // SAFETY: as the caller promises.
            None => unsafe { System.dealloc(start, layout) },
            // SAFETY: `map` made it with this length.
            Some(bytes) => unsafe { unmap(start, bytes) },
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size with the old alignment is a layout.
        let new = unsafe { Layout::from_size_align_unchecked(new_bytes, layout.align()) };
        if huge(layout).is_none() && huge(new).is_none() {
            // SAFETY: as the caller promises.
            return unsafe { System.realloc(start, layout, new_bytes) };
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

/// Bytes of the map for a large block; `None` for one that is the system's.
fn huge(layout: Layout) -> Option<usize> {
    (cfg!(target_os = "linux") && layout.size() >= LARGE_BYTES && layout.align() <= HUGE_BYTES)
        .then(|| layout.size().next_multiple_of(PAGE_BYTES))
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
        for bytes in [1, 4096, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES + 4097] {
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
}
