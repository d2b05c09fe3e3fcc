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
 * moves then. So the frames of those are noted, in a bit for each frame.
 */
#include <linux/bitmap.h>
#include <linux/log2.h>
#include <linux/mmu_notifier.h>
#include <linux/page_idle.h>
#include <linux/pgtable.h>
#include <asm/tlbflush.h>

#include "batch.h"

/* Frames that can be told apart, at least. */
#define NOTED_MIN_FRAMES	(1UL << 15)
/* At most: kvmalloc() gives no more than 2 GiB. That is enough for 32 TiB at 4 KiB a page. */
#define NOTED_MAX_FRAMES	(1UL << min(33, BITS_PER_LONG - 1))

struct ksm_noted ksm_noted;

static_assert(NOTED_MIN_FRAMES >> KSM_NOTED_SHIFT);

/**
 * ksm_frame_note - a folio with contents of its own is to be mapped by clean entries
 * @folio: which
 *
 * Context: a fault, before the entry is set; or right after it with the mmap_lock
 * held, for writing or with ksm_control.
 */
void ksm_frame_note(struct folio *folio)
{
	/* Pairs with ksm_frames_begin_pass(): what that has reset is seen to be so. */
	unsigned int now = smp_load_acquire(&ksm_noted.now);
	/* Pairs with noted_alloc(). Without bitmaps all frames count as noted. */
	struct ksm_noted_maps *maps = smp_load_acquire(&ksm_noted.maps);
	unsigned long i;

	for (i = 0; maps && i < folio_nr_pages(folio); i++) {
		unsigned long frame = (folio_pfn(folio) + i) & maps->mask;

		/* Others may want to note theirs in the same cache line. */
		if (!test_bit(frame, maps->frames[now]))
			set_bit(frame, maps->frames[now]);
		if (!test_bit(frame >> KSM_NOTED_SHIFT, maps->chunks[now]))
			set_bit(frame >> KSM_NOTED_SHIFT, maps->chunks[now]);
	}
	if (!READ_ONCE(ksm_noted.any[now]))
		WRITE_ONCE(ksm_noted.any[now], true);
}

static void noted_free(struct ksm_noted_maps *maps)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(maps->frames); i++) {
		kvfree(maps->frames[i]);
		kvfree(maps->chunks[i]);
	}
	kfree(maps);
}

/*
 * As the forests, the bitmaps stay for good and do not count in ksm_stat.bytes. There are
 * no page records before the first pass, and so nothing to be noted.
 */
static void noted_alloc(void)
{
	gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_NORETRY;
	unsigned long nr = clamp(roundup_pow_of_two(totalram_pages()), NOTED_MIN_FRAMES,
				 NOTED_MAX_FRAMES);
	struct ksm_noted_maps *maps = kmalloc(sizeof(*maps), gfp);
	unsigned int i;

	if (!maps)
		return;
	maps->mask = nr - 1;
	for (i = 0; i < ARRAY_SIZE(maps->frames); i++) {
		maps->frames[i] = kvmalloc(bitmap_size(nr), gfp);
		maps->chunks[i] = kvmalloc(bitmap_size(nr >> KSM_NOTED_SHIFT), gfp);
		if (!maps->frames[i] || !maps->chunks[i]) {
			noted_free(maps);
			return;
		}
	}
	/* What was noted up to now, without a bitmap, may be any frame. */
	memset(maps->frames[ksm_noted.now], 0xff, bitmap_size(nr));
	bitmap_fill(maps->chunks[ksm_noted.now], nr >> KSM_NOTED_SHIFT);
	WRITE_ONCE(ksm_noted.any[ksm_noted.now], true);
	/* Pairs with ksm_frame_note() and ksm_noted_maps(). */
	smp_store_release(&ksm_noted.maps, maps);
}

/* It takes as long as there are chunks that something was noted in. */
static void noted_clear(struct ksm_noted_maps *maps, unsigned int which)
{
	unsigned long chunk;

	for_each_set_bit(chunk, maps->chunks[which], (maps->mask + 1) >> KSM_NOTED_SHIFT) {
		clear_bit(chunk, maps->chunks[which]);
		bitmap_zero(maps->frames[which] + (chunk << KSM_NOTED_SHIFT) / BITS_PER_LONG,
			    1UL << KSM_NOTED_SHIFT);
		cond_resched();
	}
}

/**
 * ksm_frames_begin_pass - what was noted before the last pass has been seen
 *
 * A fault that is held up between its look at @now and its note for a whole pass
 * notes nothing; then it is the refresh that finds the page.
 *
 * Context: ksm_control held; sleeps.
 */
void ksm_frames_begin_pass(void)
{
	unsigned int old = !ksm_noted.now;

	if (!ksm_noted.maps)
		noted_alloc();
	if (ksm_noted.maps && ksm_noted.any[old])
		noted_clear(ksm_noted.maps, old);
	WRITE_ONCE(ksm_noted.any[old], false);
	/* Pairs with ksm_frame_note(). */
	smp_store_release(&ksm_noted.now, old);
}

/**
 * ksm_maps_noted - whether a frame was noted in this pass or the last
 * @maps: ksm_noted_maps()
 * @pfn: of the frame
 *
 * Context: page table lock held; for ksm_frame_noted().
 * Return: true also for a frame whose PFN has the low bits of a noted one's.
 */
bool ksm_maps_noted(const struct ksm_noted_maps *maps, unsigned long pfn)
{
	unsigned long frame = pfn & maps->mask;

	return test_bit(frame, maps->frames[0]) || test_bit(frame, maps->frames[1]);
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
