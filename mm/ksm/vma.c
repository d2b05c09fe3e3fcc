// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which VMAs take part: madvise, prctl, and the flags of new ones.
 */
#include <linux/fs.h>
#include <linux/mman.h>

#include "ksm.h"

static bool flags_compatible(const struct file *file, vma_flags_t flags)
{
	if (vma_flags_test_any(&flags, VMA_SHARED_BIT, VMA_MAYSHARE_BIT, VMA_HUGETLB_BIT))
		return false;
	if (vma_flags_test_any_mask(&flags, VMA_SPECIAL_FLAGS))
		return false;
	if (vma_flags_test_single_mask(&flags, VMA_DROPPABLE))
		return false;
	if (file && IS_DAX(file_inode(file)))
		return false;
#ifdef VM_SAO
	if (vma_flags_to_legacy(flags) & VM_SAO)
		return false;
#endif
#ifdef VM_SPARC_ADI
	if (vma_flags_to_legacy(flags) & VM_SPARC_ADI)
		return false;
#endif
	return true;
}

static bool vma_compatible(const struct vm_area_struct *vma)
{
	return flags_compatible(vma->vm_file, vma->flags);
}

/**
 * ksm_vma_mergeable - whether a VMA may hold pages to merge
 * @vma: which
 *
 * Context: mmap_lock held.
 * Return: true if it takes part and has had anonymous pages.
 */
bool ksm_vma_mergeable(const struct vm_area_struct *vma)
{
	return (vma->vm_flags & VM_MERGEABLE) && vma->anon_vma;
}

/**
 * ksm_vma_lookup - the mergeable VMA at an address
 * @mm: whose
 * @addr: where
 *
 * Context: mmap_lock held.
 * Return: the VMA, or NULL when there is none or it may not be merged.
 */
struct vm_area_struct *ksm_vma_lookup(struct mm_struct *mm, unsigned long addr)
{
	struct vm_area_struct *vma = vma_lookup(mm, addr);

	return vma && ksm_vma_mergeable(vma) ? vma : NULL;
}

static int madvise_mergeable(struct vm_area_struct *vma, vm_flags_t *vm_flags)
{
	struct mm_struct *mm = vma->vm_mm;

	if (!vma_compatible(vma))
		return 0;
	/* A copy of a mergeable VMA may be there while its mm could not register. */
	if (!mm_flags_test(MMF_VM_MERGEABLE, mm)) {
		int err = __ksm_enter(mm);

		if (err)
			return err;
	}
	if (!(*vm_flags & VM_MERGEABLE))
		ksm_scan_hurry();
	*vm_flags |= VM_MERGEABLE;
	return 0;
}

static int madvise_unmergeable(struct vm_area_struct *vma, unsigned long start,
			       unsigned long end, vm_flags_t *vm_flags)
{
	if (!(vma->vm_flags & VM_MERGEABLE))
		return 0;
	if (vma->anon_vma) {
		int err = ksm_unmerge_range(vma, start, end);

		if (err)
			return err;
	}
	*vm_flags &= ~VM_MERGEABLE;
	return 0;
}

/**
 * ksm_madvise - MADV_MERGEABLE and MADV_UNMERGEABLE on a part of a VMA
 * @vma: the VMA
 * @start: first byte, page aligned
 * @end: end of the part, page aligned
 * @advice: one of the two
 * @vm_flags: the VMA's flags to be; changed on success only
 *
 * Context: mmap_lock held for writing; may sleep.
 * Return: 0, also where merging is not possible; -ENOMEM; -EBUSY for a page that
 * cannot be had now; -ERESTARTSYS when a signal ended an unmerging early.
 */
int ksm_madvise(struct vm_area_struct *vma, unsigned long start, unsigned long end,
		int advice, vm_flags_t *vm_flags)
{
	switch (advice) {
	case MADV_MERGEABLE:
		return madvise_mergeable(vma, vm_flags);
	case MADV_UNMERGEABLE:
		return madvise_unmergeable(vma, start, end, vm_flags);
	default:
		return 0;
	}
}
EXPORT_SYMBOL_GPL(ksm_madvise);

/**
 * ksm_vma_flags - flags of a VMA about to be made
 * @mm: whose
 * @file: what it maps, or NULL
 * @vma_flags: its flags
 *
 * Context: any.
 * Return: @vma_flags, made mergeable if the mm asked for that and it can be.
 */
vma_flags_t ksm_vma_flags(struct mm_struct *mm, const struct file *file, vma_flags_t vma_flags)
{
	if (mm_flags_test(MMF_VM_MERGE_ANY, mm) && flags_compatible(file, vma_flags))
		vma_flags_set(&vma_flags, VMA_MERGEABLE_BIT);
	return vma_flags;
}

static void mark_all_vmas(struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;

	for_each_vma(vmi, vma) {
		if (!(vma->vm_flags & VM_MERGEABLE) && vma_compatible(vma))
			vm_flags_set(vma, VM_MERGEABLE);
	}
}

static int unmark_all_vmas(struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;

	for_each_vma(vmi, vma) {
		vm_flags_t flags = vma->vm_flags;
		int err = madvise_unmergeable(vma, vma->vm_start, vma->vm_end, &flags);

		if (err)
			return err;
		if (flags != vma->vm_flags)
			vm_flags_clear(vma, VM_MERGEABLE);
	}
	return 0;
}

/**
 * ksm_enable_merge_any - all VMAs of an mm, present and future, take part
 * @mm: which
 *
 * Context: mmap_lock held for writing; may sleep.
 * Return: 0 or -ENOMEM.
 */
int ksm_enable_merge_any(struct mm_struct *mm)
{
	if (!mm_flags_test(MMF_VM_MERGEABLE, mm)) {
		int err = __ksm_enter(mm);

		if (err)
			return err;
	}
	if (mm_flags_test(MMF_VM_MERGE_ANY, mm))
		return 0;
	mm_flags_set(MMF_VM_MERGE_ANY, mm);
	mark_all_vmas(mm);
	ksm_scan_hurry();
	return 0;
}

/**
 * ksm_disable_merge_any - undo ksm_enable_merge_any() and unmerge all VMAs
 * @mm: which
 *
 * Context: mmap_lock held for writing; may sleep.
 * Return: 0; -ENOMEM, -EBUSY or -ERESTARTSYS, and merging stays on for all VMAs.
 */
int ksm_disable_merge_any(struct mm_struct *mm)
{
	int err;

	if (!mm_flags_test(MMF_VM_MERGE_ANY, mm))
		return 0;
	err = unmark_all_vmas(mm);
	if (err) {
		mark_all_vmas(mm);
		return err;
	}
	mm_flags_clear(MMF_VM_MERGE_ANY, mm);
	return 0;
}

/**
 * ksm_disable - unmerge all VMAs of an mm, whoever asked for merging
 * @mm: which
 *
 * Context: mmap_lock held for writing; may sleep.
 * Return: 0, -ENOMEM, -EBUSY or -ERESTARTSYS.
 */
int ksm_disable(struct mm_struct *mm)
{
	if (mm_flags_test(MMF_VM_MERGE_ANY, mm))
		return ksm_disable_merge_any(mm);
	return unmark_all_vmas(mm);
}

/**
 * ksm_process_mergeable - whether any VMA of an mm takes part
 * @mm: which
 *
 * Context: mmap_lock held.
 * Return: true if one does.
 */
bool ksm_process_mergeable(struct mm_struct *mm)
{
	VMA_ITERATOR(vmi, mm, 0);
	struct vm_area_struct *vma;

	mmap_assert_locked(mm);
	for_each_vma(vmi, vma) {
		if (vma->vm_flags & VM_MERGEABLE)
			return true;
	}
	return false;
}
