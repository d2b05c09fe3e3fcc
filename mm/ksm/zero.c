// SPDX-License-Identifier: GPL-2.0-only
/*
 * Empty pages: instead of sharing one among themselves they can be replaced by
 * the kernel's zero page, which costs neither memory nor metadata.
 *
 * It has no stable node, no sites and no limit. The dirty bit of its PTE tells
 * that KSM put it there, by which it is counted, and undone by unmerging.
 */
#include <linux/ksm.h>
#include <linux/pagewalk.h>
#include <trace/events/ksm.h>

#include "ksm.h"

bool ksm_use_zero_pages;

static u64 zero_checksum __ro_after_init;

/**
 * ksm_zero_init - learn what empty pages are filed under
 *
 * Context: after ksm_checksum_init().
 */
void __init ksm_zero_init(void)
{
	zero_checksum = ksm_page_checksum(ZERO_PAGE(0), NULL);
}

/**
 * ksm_key_is_zero - whether a page may be empty
 * @key: the page's
 * @nid: its NUMA node
 *
 * Return: true if @key is that of zeroes; the bytes must still be compared.
 */
bool ksm_key_is_zero(u64 key, int nid)
{
	return key == ksm_key(zero_checksum, nid);
}

/* Folio locked and small. The record must not outlive the page. */
static int merge_zero_locked(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			     struct page *page)
{
	unsigned int level = 0;
	struct ksm_record rec;
	bool known;
	int err;

	known = ksm_track_find(&kmm->track, addr, &rec);
	if (known)
		level = ksm_record_level(rec);
	if (known && !ksm_forget_record(kmm, addr, rec, false))
		return -EAGAIN;
	err = ksm_exchange_page(vma, addr, page, ZERO_PAGE(addr));
	if (err && known)
		ksm_record_set_level(rec, level);
	return err;
}

/**
 * ksm_merge_zero - let an empty page be replaced by the zero page
 * @kmm: whose page
 * @vma: mergeable, of an mm that may map the zero page
 * @addr: page aligned, inside @vma
 *
 * Context: the mmap_lock and @kmm locked; waits for no folio.
 * Return: 0; -ENOENT when there is no page or it is not empty; -EAGAIN when it
 * is in use otherwise.
 */
int ksm_merge_zero(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr)
{
	struct folio *folio;
	struct page *page;
	int err = -ENOENT;

	page = ksm_get_page(vma, addr);
	if (!page)
		return err;
	/* A huge page is not split in vain. */
	if (PageCompound(page) && !ksm_pages_equal(page, ZERO_PAGE(addr)))
		goto put;
	folio = ksm_lock_small_folio(page);
	err = PTR_ERR_OR_ZERO(folio);
	if (!err) {
		err = merge_zero_locked(kmm, vma, addr, page);
		folio_unlock(page_folio(page));
	}
put:
	trace_ksm_merge_one_page(page_to_pfn(page), (void *)addr, vma->vm_mm, err);
	if (err)
		put_page(page);
	else
		ksm_put_replaced(page);
	return err;
}
