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
 */
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <asm/tlbflush.h>

#include "batch.h"

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
