// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change detection by the dirty bit of page table entries, and by the accessed
 * bit of secondary MMUs.
 *
 * A visit hands the bit over to the folio, which is all that reclaim needs to
 * know, and clears it. An entry that is still clean at the next visit, and maps
 * the same page, says that nobody has written through it in between. Writes by
 * other ways, through pins or the kernel's own mappings, do not show: every
 * page is looked at afresh now and then.
 *
 * TLBs are flushed before the page table lock is given up. Else reclaim could
 * meet a clean entry, start writing the page to swap, and miss what another CPU
 * still stores through an old, dirty translation.
 *
 * A secondary MMU, such as KVM's for a guest, has entries and a dirty bit of its
 * own, but shows the accessed bit only. A visit clears that, too. If it is still
 * clear at the next visit nobody has written that way. If it is set the page was
 * touched, perhaps only read: whether it has changed is for its key to tell.
 *
 * "Not touched" is a hint, and weaker than a clean entry. The bit is lost when
 * the entry goes (NUMA balancing, a huge page that is split, an attempt to merge)
 * or when reclaim, which reads and clears it too, was faster. And no TLB of a
 * guest is flushed when it is cleared: until the CPU drops a translation nothing
 * written through it sets the bit again. mmu_notifier_clear_flush_young() is no
 * way out: on x86 KVM leaves the flush out of that as well, and where it does
 * not, each page costs an interrupt on all CPUs of the guest. What is missed costs
 * a late merge and nothing else, as merging takes the entry away, flushes, and
 * compares; and pages that a secondary MMU may map are looked at afresh more often.
 *
 * Some pages come with a clean entry, whatever was written before: from swap, and
 * copies of merged pages that are unshared. Such a page may be given the frame that
 * the place had before, as mremap() does, which unmaps first and unmerges what it
 * moves then. So the frames of those are noted.
 */
#include <linux/bitmap.h>
#include <linux/mmu_notifier.h>
#include <linux/page_idle.h>
#include <linux/pgtable.h>
#include <asm/tlbflush.h>

#include "batch.h"

/* Frames are noted in so many bits, by the low bits of their PFN. */
#define NOTED_FRAMES		(1UL << 16)

/*
 * Frames that came to be mapped by clean entries: since this pass began, and in the
 * one before. A wrong answer costs hashing a page. Set by faults, without a lock.
 */
static struct {
	DECLARE_BITMAP(frames[2], NOTED_FRAMES);
	bool any[2];
	unsigned int now;
} noted;

/**
 * ksm_frame_note - a folio with contents of its own is to be mapped by clean entries
 * @folio: which
 *
 * Context: a fault, before the entry is set; or right after it with the mmap_lock
 * held, for writing or with ksm_control.
 */
void ksm_frame_note(struct folio *folio)
{
	unsigned int now = READ_ONCE(noted.now);
	unsigned long i;

	for (i = 0; i < folio_nr_pages(folio); i++) {
		unsigned long bit = (folio_pfn(folio) + i) % NOTED_FRAMES;

		/* Others may want to note theirs in the same cache line. */
		if (!test_bit(bit, noted.frames[now]))
			set_bit(bit, noted.frames[now]);
	}
	if (!READ_ONCE(noted.any[now]))
		WRITE_ONCE(noted.any[now], true);
}

/**
 * ksm_frames_begin_pass - what was noted before the last pass has been seen
 *
 * A fault that is held up between its look at @now and its note for a whole pass
 * notes nothing; then it is the refresh that finds the page.
 *
 * Context: ksm_control held.
 */
void ksm_frames_begin_pass(void)
{
	unsigned int old = !noted.now;

	if (noted.any[old])
		bitmap_zero(noted.frames[old], NOTED_FRAMES);
	WRITE_ONCE(noted.any[old], false);
	WRITE_ONCE(noted.now, old);
}

/**
 * ksm_any_frame_noted - whether there is any of this pass or the last
 *
 * Context: any.
 * Return: true if there is.
 */
bool ksm_any_frame_noted(void)
{
	return READ_ONCE(noted.any[0]) || READ_ONCE(noted.any[1]);
}

/**
 * ksm_frame_noted - whether a page may be a new one in this pass or the last
 * @pfn: that is mapped by a clean entry
 *
 * Context: page table lock held.
 * Return: true also for a page whose PFN has the low bits of a new one's.
 */
bool ksm_frame_noted(unsigned long pfn)
{
	return test_bit(pfn % NOTED_FRAMES, noted.frames[0]) ||
	       test_bit(pfn % NOTED_FRAMES, noted.frames[1]);
}

/**
 * ksm_dirty_bit_tells - whether writes show in PTEs, or in what secondary MMUs tell
 * @vma: whose
 *
 * Not all secondary MMUs have an accessed bit to show. A shadow stack's entries
 * are dirty by definition. Where hardware does not set the dirty bit, each first
 * write after clearing it would cost a fault.
 *
 * What was noted when there was no secondary MMU yet is good when there is one:
 * its entries are new then, and whatever was touched shows. When the last one has
 * gone, and its accessed bits with it, the answer is no until there is one again.
 *
 * Context: mmap_lock held, and the answer is for as long as it is.
 * Return: true if they do.
 */
bool ksm_dirty_bit_tells(const struct vm_area_struct *vma)
{
	struct mm_struct *mm = vma->vm_mm;

	return IS_ENABLED(CONFIG_KSM_DIRTY_BIT) && READ_ONCE(ksm_smart_scan) &&
	       !(vma->vm_flags & VM_SHADOW_STACK) &&
	       (!mm_has_notifiers(mm) || mmu_notifier_tells_young(mm));
}

/**
 * ksm_secondary_touched - whether secondary MMUs touched pages since they were asked last
 * @vma: the VMA
 * @start: of the first page
 * @end: end of the last one
 *
 * All accessed bits of the range are cleared. One entry of a secondary MMU maps no
 * more than one of @vma's does: a page of a huge page cannot be asked about alone.
 *
 * Context: page table lock held, ksm_dirty_bit_tells().
 * Return: true if they touched any of them.
 */
bool ksm_secondary_touched(struct vm_area_struct *vma, unsigned long start, unsigned long end)
{
	return mmu_notifier_clear_young(vma->vm_mm, start, end);
}

/**
 * ksm_keep_young - tell reclaim and page idle tracking that a folio was touched
 * @folio: whose accessed bit was found and cleared
 *
 * Context: page table lock held.
 */
void ksm_keep_young(struct folio *folio)
{
	folio_clear_idle(folio);
	folio_set_young(folio);
}

/**
 * ksm_hand_over_pte - hand the dirty bit of an entry over to the folio
 * @vma: the VMA
 * @addr: of the page
 * @ptep: its entry, dirty
 * @folio: that it maps
 *
 * Context: page table lock held; the caller flushes before it gives that up.
 */
void ksm_hand_over_pte(struct vm_area_struct *vma, unsigned long addr, pte_t *ptep,
		       struct folio *folio)
{
	folio_mark_dirty(folio);
	clear_young_dirty_ptes(vma, addr, ptep, 1, CYDP_CLEAR_DIRTY);
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/**
 * ksm_hand_over_pmd - likewise for a huge page; flushes TLBs itself
 * @vma: the VMA
 * @addr: of the huge page
 * @pmdp: its entry, dirty
 * @folio: that it maps
 *
 * Context: page table lock held.
 */
void ksm_hand_over_pmd(struct vm_area_struct *vma, unsigned long addr, pmd_t *pmdp,
		       struct folio *folio)
{
	pmd_t pmd;

	folio_mark_dirty(folio);
	pmd = pmdp_invalidate(vma, addr, pmdp);
	set_pmd_at(vma->vm_mm, addr, pmdp, pmd_mkclean(pmd));
}
#else
void ksm_hand_over_pmd(struct vm_area_struct *vma, unsigned long addr, pmd_t *pmdp,
		       struct folio *folio)
{
}
#endif
