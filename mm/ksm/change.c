// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change detection by the dirty bit of page table entries.
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
 * A page that comes back from swap has a clean entry, whatever was written before
 * it went, and it may come back to the frame that it had. So it is noted who does.
 */
#include <linux/bitmap.h>
#include <linux/hash.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <asm/tlbflush.h>

#include "batch.h"

/* Pages that came back are noted in so many bits, as a power of two. */
#define RETURNED_BITS		16

/*
 * Where pages came back, by a hash of the place: since this pass began, and in the
 * one before. A wrong answer costs hashing a page. Set by faults, without a lock.
 */
static struct {
	DECLARE_BITMAP(places[2], 1UL << RETURNED_BITS);
	bool any[2];
	unsigned int now;
} returned;

static unsigned long place_bit(const struct mm_struct *mm, unsigned long addr)
{
	return hash_long((unsigned long)mm + (addr >> PAGE_SHIFT), RETURNED_BITS);
}

/**
 * ksm_note_return - a page is about to come back from swap
 * @vma: where
 * @addr: of the page that is asked for
 * @folio: which may hold pages around it, that come too
 *
 * Context: a fault; before the entry is set under the page table lock.
 */
void ksm_note_return(const struct vm_area_struct *vma, unsigned long addr,
		     const struct folio *folio)
{
	unsigned int now = READ_ONCE(returned.now);
	long i, around = folio_nr_pages(folio) - 1;

	for (i = -around; i <= around; i++)
		set_bit(place_bit(vma->vm_mm, addr + i * PAGE_SIZE), returned.places[now]);
	WRITE_ONCE(returned.any[now], true);
}

/**
 * ksm_returns_begin_pass - what came back before the last pass has been seen
 *
 * A fault that is held up between its look at @now and its note for a whole pass is
 * not noted; then it is the refresh that finds the page.
 *
 * Context: ksm_control held.
 */
void ksm_returns_begin_pass(void)
{
	unsigned int old = !returned.now;

	if (returned.any[old])
		bitmap_zero(returned.places[old], 1UL << RETURNED_BITS);
	WRITE_ONCE(returned.any[old], false);
	WRITE_ONCE(returned.now, old);
}

/**
 * ksm_any_returned - whether any page came back in this pass or the last
 *
 * Context: any.
 */
bool ksm_any_returned(void)
{
	return READ_ONCE(returned.any[0]) | READ_ONCE(returned.any[1]);
}

/**
 * ksm_has_returned - whether a page may have come back in this pass or the last
 * @mm: whose page
 * @addr: where
 *
 * Context: page table lock held.
 */
bool ksm_has_returned(const struct mm_struct *mm, unsigned long addr)
{
	unsigned long bit = place_bit(mm, addr);

	return test_bit(bit, returned.places[0]) || test_bit(bit, returned.places[1]);
}

/**
 * ksm_dirty_bit_tells - whether all writes by the application show in its PTEs
 * @vma: whose
 *
 * A secondary MMU, such as a virtual machine's, has entries of its own. A
 * shadow stack's entries are dirty by definition. Where hardware does not set
 * the bit, each first write after clearing it would cost a fault.
 *
 * Context: mmap_lock held.
 */
bool ksm_dirty_bit_tells(const struct vm_area_struct *vma)
{
	return IS_ENABLED(CONFIG_KSM_DIRTY_BIT) && READ_ONCE(ksm_smart_scan) &&
	       !mm_has_notifiers(vma->vm_mm) && !(vma->vm_flags & VM_SHADOW_STACK);
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
