// SPDX-License-Identifier: GPL-2.0-only
/*
 * Visits: what a walk does with one page that it finds mapped, or finds gone.
 *
 * All here is called under a page table lock, which keeps the mapped page in being. A
 * page that has changed is noted; references are taken on pages that must be hashed.
 */
#include <linux/leafops.h>
#include <linux/mmap_lock.h>

#include "batch.h"
#include "../swap.h"

/**
 * ksm_batch_full - whether the walk has to stop here
 * @batch: where the walk is
 *
 * Return: true if it has found enough, or others wait for the mmap_lock.
 */
bool ksm_batch_full(const struct ksm_batch *batch)
{
	if (batch->work >= batch->max_work || batch->nr_items >= KSM_BATCH_PAGES)
		return true;
	if (ksm_point_fails(KSM_POINT_BATCH_FULL))
		return true;
	/* Lets writers of the mm's layout in early. */
	return (batch->nr_items >= KSM_BATCH_HURRIED ||
		batch->work >= KSM_BATCH_HURRIED * KSM_COST_HASHED) &&
	       mmap_lock_is_contended(batch->kmm->slot.mm);
}

static struct ksm_item *add_item(struct ksm_batch *batch, unsigned long addr, struct page *page,
				 enum ksm_found found)
{
	struct ksm_item *item = &batch->items[batch->nr_items++];

	*item = (struct ksm_item){
		.addr = addr,
		.page = page,
		.pfn = page ? page_to_pfn(page) : 0,
		.shared = page && folio_maybe_mapped_shared(page_folio(page)),
		.found = found,
		.dirty_bit = batch->dirty_bit,
		.refresh = ksm_refresh_due(batch, addr),
		.in_round = ksm_in_huge_round(batch, addr),
		.again = batch->again == addr,
	};
	return item;
}

static bool find_record(const struct ksm_batch *batch, unsigned long addr,
			struct ksm_record *rec)
{
	return ksm_block_find(batch->block, addr, rec);
}

/* Pages in a per-CPU list of the LRU look held, too; the next pass sees them. */
static bool folio_is_busy(struct folio *folio)
{
	if (folio_maybe_dma_pinned(folio))
		return true;
	return !folio_test_large(folio) &&
	       folio_ref_count(folio) > folio_mapcount(folio) + folio_test_swapcache(folio);
}

/**
 * ksm_visit_nothing - nothing that could merge is mapped at an address
 * @batch: where the walk is
 * @addr: page aligned
 */
void ksm_visit_nothing(struct ksm_batch *batch, unsigned long addr)
{
	struct ksm_record rec;

	batch->work += KSM_COST_UNCHANGED;
	if (find_record(batch, addr, &rec) && ksm_record_state(rec) != KSM_UNSEEN)
		add_item(batch, addr, NULL, KSM_FOUND_GONE);
}

/*
 * Whether a site's folio may come back to where this entry is: out of the swap
 * cache, or from a migration. Nobody else's lock is waited for.
 */
static bool may_return(const struct ksm_site *site, softleaf_t entry)
{
	struct folio *folio = ksm_stable_lock_folio(site->stable, false);
	bool same;

	if (!folio)
		return false;
	if (IS_ERR(folio))
		return true;
	same = softleaf_is_migration(entry) ||
	       (softleaf_is_swap(entry) && folio_matches_swap_entry(folio, entry));
	folio_unlock(folio);
	folio_put(folio);
	return same;
}

/*
 * If a settled page comes back with the same key nothing is new, unless a twin has come
 * meanwhile: then it is to be new itself, to find it.
 */
static bool may_stay_settled(struct ksm_batch *batch, struct ksm_record rec, softleaf_t entry)
{
	u64 key = ksm_record_word(rec).key;

	if (!batch->dirty_bit || !(softleaf_is_swap(entry) || softleaf_is_migration(entry)))
		return false;
	return !ksm_sight_wanted(key) && !ksm_sight_renew(key);
}

/**
 * ksm_visit_absent - a page is not mapped at the moment
 * @batch: where the walk is
 * @addr: of the page
 * @entry: what stands for it
 */
void ksm_visit_absent(struct ksm_batch *batch, unsigned long addr, softleaf_t entry)
{
	struct ksm_record rec;

	batch->work += KSM_COST_UNCHANGED;
	if (!find_record(batch, addr, &rec))
		return;
	if (ksm_record_state(rec) == KSM_MERGED && may_return(ksm_record_word(rec).site, entry))
		return;
	if (ksm_record_state(rec) == KSM_SETTLED && may_stay_settled(batch, rec, entry))
		return;
	ksm_visit_nothing(batch, addr);
}

/* A site cannot be given up under a page table lock. */
static void note_merged_changed(struct ksm_batch *batch, unsigned long addr, struct page *page,
				bool written)
{
	struct ksm_item *item;

	if (batch->nr_items >= KSM_BATCH_PAGES)
		return;
	item = add_item(batch, addr, NULL, KSM_FOUND_CHANGED);
	item->pfn = page_to_pfn(page);
	item->rewritten = written;
}

/**
 * ksm_note_change - the record notes that its page changes, and which it is
 * @batch: where the walk is
 * @addr: of the page
 * @page: that is mapped there
 * @written: it was written to; else it may have been replaced, or is held by others
 */
void ksm_note_change(struct ksm_batch *batch, unsigned long addr, struct page *page, bool written)
{
	struct ksm_record rec;
	enum ksm_state state;
	unsigned int level;

	batch->considered++;
	batch->work += KSM_COST_CHANGED;
	if (ksm_track_get(&batch->kmm->track, addr, KSM_GFP, &rec))
		return;
	batch->block = rec.block;
	state = ksm_record_state(rec);
	level = ksm_record_level(rec);
	if (state == KSM_UNSEEN)
		level = max(level, ksm_backoff_first(&batch->kmm->fate, batch->unit));
	if (state == KSM_UNSEEN)
		batch->found += !level;
	else if (state != KSM_CLEANED && !level)
		batch->changed++;
	if (state == KSM_MERGED) {
		note_merged_changed(batch, addr, page, written);
		return;
	}
	if (state == KSM_CANDIDATE)
		ksm_unstable_del(ksm_record_word(rec).candidate);
	if (state != KSM_UNSEEN && written)
		level = ksm_backoff_changed(state, level);
	ksm_track_set(&batch->kmm->track, rec, KSM_CLEANED,
		      (union ksm_word){ .since = batch->now });
	ksm_record_set_level(rec, level);
	ksm_record_set_tag(rec, page_to_pfn(page));
}

/**
 * ksm_sweep_page - after a pass: a settled page may be equal to a candidate behind it
 * @batch: where the walk is
 * @addr: of the page
 * @pfn: that is mapped there
 * @dirty: it has changed
 * @touched: it may have changed, and its key is to be compared
 *
 * Pages that have not settled are left as they are, for a pass has not gone by since
 * they were seen.
 */
void ksm_sweep_page(struct ksm_batch *batch, unsigned long addr, unsigned long pfn, bool dirty,
		    bool touched)
{
	struct ksm_record rec;
	struct folio *folio;

	batch->work += KSM_COST_UNCHANGED;
	if (!find_record(batch, addr, &rec) || ksm_record_state(rec) != KSM_SETTLED ||
	    !ksm_sight_wanted(ksm_record_word(rec).key))
		return;
	if (batch->dirty_bit && (dirty || (!touched && !ksm_record_has_tag(rec, pfn))))
		return;
	folio = pfn_folio(pfn);
	if (!folio_test_anon(folio) || folio_test_ksm(folio) || folio_is_busy(folio))
		return;
	if (folio_test_lazyfree(folio))
		return;
	if (folio_is_zone_device(folio) || PageHWPoison(pfn_to_page(pfn)))
		return;
	batch->work += KSM_COST_HASHED;
	add_item(batch, addr, pfn_to_page(pfn), KSM_FOUND_PAGE)->touched = touched;
	folio_get(folio);
}

/* Whether the record vouches for the page: who was to tell of a change told of none. */
static bool known_unchanged(const struct ksm_batch *batch, unsigned long addr, struct page *page)
{
	struct ksm_record rec;

	if (!find_record(batch, addr, &rec) || !ksm_record_has_tag(rec, page_to_pfn(page)))
		return false;
	switch (ksm_record_state(rec)) {
	case KSM_HASHED:
	case KSM_CLEANED:
	case KSM_SETTLED:
	case KSM_CANDIDATE:
		return true;
	default:
		return false;
	}
}

/* Whether a settled page was read from swap into another frame: its key tells if it changed. */
static bool is_back(const struct ksm_batch *batch, unsigned long addr, struct page *page)
{
	unsigned long pfn = page_to_pfn(page);
	struct ksm_record rec;

	return batch->dirty_bit && find_record(batch, addr, &rec) &&
	       ksm_record_state(rec) == KSM_SETTLED && !ksm_record_has_tag(rec, pfn) &&
	       ksm_is_noted(pfn);
}

static void see_merged(struct ksm_batch *batch, unsigned long addr, struct folio *folio)
{
	struct ksm_record rec;

	batch->considered++;
	if (find_record(batch, addr, &rec) && ksm_record_state(rec) == KSM_MERGED &&
	    ksm_stable_owns(ksm_record_word(rec).site->stable, folio)) {
		batch->skipped++;
		batch->work += KSM_COST_UNCHANGED;
		/* It may have migrated. */
		ksm_record_set_tag(rec, folio_pfn(folio));
		return;
	}
	batch->work += KSM_COST_CHANGED;
	add_item(batch, addr, NULL, KSM_FOUND_MERGED);
}

/*
 * A page that is to be hashed. One that others hold is not merged now, and may be
 * written to unseen.
 */
static void take_page(struct ksm_batch *batch, unsigned long addr, struct page *page, bool touched)
{
	struct folio *folio = page_folio(page);
	bool busy = folio_is_busy(folio);

	if (busy && batch->dirty_bit && !touched) {
		ksm_note_change(batch, addr, page, false);
		return;
	}
	batch->considered++;
	batch->work += KSM_COST_HASHED;
	add_item(batch, addr, page, busy ? KSM_FOUND_BUSY : KSM_FOUND_PAGE)->touched = touched;
	folio_get(folio);
}

/*
 * A page that was given up by MADV_FREE. Reclaim may drop it as long as it is clean, and
 * nobody needs its contents. If it is dirty it is in use again. khugepaged looks for that
 * at the entry only, so the bit stays there: that the page has changed its key tells, or
 * its refresh.
 */
static void visit_lazyfree(struct ksm_batch *batch, unsigned long addr, struct page *page,
			   bool dirty)
{
	if (!dirty && !folio_test_dirty(page_folio(page)))
		ksm_visit_nothing(batch, addr);
	else if (!ksm_pass_over(batch, addr, page_to_pfn(page)))
		take_page(batch, addr, page, true);
}

/**
 * ksm_visit_page - a page is mapped that is not passed over
 * @batch: where the walk is
 * @addr: of the page
 * @page: the page
 * @dirty: its entry's dirty bit
 * @touched: it may have changed even if @dirty is not set, and its key is to be compared
 *
 * Return: whether the entry's dirty bit has to be handed over to the folio.
 */
bool ksm_visit_page(struct ksm_batch *batch, unsigned long addr, struct page *page, bool dirty,
		    bool touched)
{
	struct folio *folio = page_folio(page);

	/* One that failed stays mapped, and its sites lead to those who map it. */
	if (folio_test_ksm(folio) && PageHWPoison(page))
		return false;
	if (!folio_test_anon(folio) || folio_is_zone_device(folio) || PageHWPoison(page)) {
		ksm_visit_nothing(batch, addr);
		return false;
	}
	if (folio_test_ksm(folio)) {
		see_merged(batch, addr, folio);
		return false;
	}
	if (folio_test_lazyfree(folio)) {
		visit_lazyfree(batch, addr, page, dirty);
		return false;
	}
	touched |= !dirty && is_back(batch, addr, page);
	if (!batch->dirty_bit || touched || (!dirty && known_unchanged(batch, addr, page)))
		take_page(batch, addr, page, touched);
	else
		ksm_note_change(batch, addr, page, dirty);
	return batch->dirty_bit && dirty;
}

/**
 * ksm_enter_block - the walk comes to another block of page records
 * @batch: where the walk is
 * @addr: of the next page
 *
 * What the walk reads of the block behind it, if that is full, comes into the cache
 * meanwhile.
 */
void ksm_enter_block(struct ksm_batch *batch, unsigned long addr)
{
	struct ksm_track *track = &batch->kmm->track;

	batch->block = ksm_track_block(track, addr);
	ksm_track_prefetch(ksm_track_block(track, addr + KSM_BLOCK_SIZE));
}

