package pins

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// StatusOf derives the API's status. Nothing else decides it: the copy in a pin's row is written by this function in
// the transaction that changes the root, or the standing of its cold copies under a rule that asks for them.
//
// What becomes of cold copies never changes a pin that needs none to be pinned. Under another rule a DAG that is held
// and has too few copies is pinning, also when it had them once; it has failed only when it never had them and they
// were given up. Only a DAG that is not here depends on them always: it is as good as held while one is proven.
func StatusOf(hot Hot, cold deals.Standing, rule PinnedWhen) spec.Status {
	switch hot {
	case HotQueued, HotReleasing: // releasing: a pin that arrives meanwhile moves the root back to queued
		return spec.Queued
	case HotFetching:
		return spec.Pinning
	case HotHeld:
		return rule.held(cold)
	case HotOffloaded, HotRestoring:
		if cold.Active > 0 {
			return rule.held(cold) // the promise is kept: whoever reads it gets it from there
		}
		return spec.Pinning
	case HotGaveUp:
		return spec.Failed
	}
	return spec.Queued
}

// Status is the pin's status in the API.
func (p Pin) Status() spec.Status { return StatusOf(p.DAG.Hot, p.Cold, p.Rule) }

// Info is what the API tells about the pin beyond its status: `status_details`, `hot_status`, `dag_size` and
// `dag_blocks` once known, `waiting_for` while the disk is nearly full, `origins_dropped`, `pinned_until` if it has an end, and what is known of its cold copies. Never nil.
func (p Pin) Info() map[string]string {
	d := p.DAG
	info := map[string]string{"hot_status": string(d.Hot), "status_details": d.details(p.Cold)}
	if d.Hot == HotHeld || d.Hot == HotOffloaded {
		info["dag_size"] = strconv.FormatInt(d.Bytes, 10)
		info["dag_blocks"] = strconv.FormatInt(d.Blocks, 10)
	}
	if p.Waits && d.Hot.waits() {
		info["waiting_for"] = "disk space"
		info["status_details"] = "waiting for disk space on this server, and going on by itself then; " + info["status_details"]
	}
	if p.Dropped > 0 {
		info["origins_dropped"] = strconv.Itoa(p.Dropped)
	}
	if !p.Expires.IsZero() {
		info["pinned_until"] = p.Expires.Format(time.RFC3339Nano)
	}
	addCold(info, p.Cold)
	return info
}

// maxDeals is the most deals in `info`. The whole list has a route of its own.
const maxDeals = 10

// addCold tells how the cold copies stand.
func addCold(info map[string]string, cold deals.Standing) {
	if cold.Cold == "" || cold.Cold == deals.ColdDisabled {
		info["cold_status"] = string(deals.ColdDisabled)
		return
	}
	info["cold_status"] = string(cold.Cold)
	info["status_details"] += "; cold: " + coldDetails(cold)
	if cold.Wanted == 0 {
		return // not decided yet
	}
	info["replication_factor"] = strconv.Itoa(cold.Wanted)
	info["replicas_active"] = strconv.Itoa(cold.Active)
	info["replicas_in_progress"] = strconv.Itoa(cold.Working)
	if cold.Piece != nil {
		info["piece_cid"] = cold.Piece.CIDv1.String()
		info["piece_size"] = strconv.FormatUint(uint64(cold.Piece.Size), 10)
		info["raw_size"] = strconv.FormatInt(cold.Piece.RawSize, 10)
	}
	if n := min(len(cold.Deals), maxDeals); n > 0 {
		if text, err := json.Marshal(cold.Deals[:n]); err == nil { // words and numbers always marshal
			info["deals"] = string(text)
		}
	}
	if !cold.NextAt.IsZero() && cold.NextAt.UnixMilli() > 0 {
		info["cold_next_check"] = cold.NextAt.UTC().Format(time.RFC3339)
	}
}

// coldDetails says in words how the cold copies stand: `1/2 active, 1 sealing; REASON`.
func coldDetails(cold deals.Standing) string {
	var b strings.Builder
	if cold.Wanted == 0 {
		b.WriteString("not decided yet")
	} else {
		fmt.Fprintf(&b, "%d/%d active", cold.Active, cold.Wanted)
		n := map[deals.State]int{}
		for _, d := range cold.Deals {
			n[d.State]++
		}
		for _, state := range deals.States() {
			if n[state] > 0 && !state.Final() && state != deals.Active {
				fmt.Fprintf(&b, ", %d %s", n[state], state)
			}
		}
	}
	if cold.Reason != "" && cold.Cold != deals.ColdStored {
		b.WriteString("; ")
		b.WriteString(cold.Reason)
	}
	return b.String()
}

// details says in words how the DAG stands.
func (d DAG) details(cold deals.Standing) string {
	var b strings.Builder
	switch d.Hot {
	case HotQueued, HotReleasing:
		b.WriteString("waiting for the root block")
	case HotFetching:
		fmt.Fprintf(&b, "fetching: %d blocks, %d bytes so far", d.Blocks, d.Bytes)
	case HotHeld:
		b.WriteString("held: the whole DAG is stored and verified")
	case HotOffloaded:
		fmt.Fprintf(&b, "let go here, whole in %d Filecoin deals; reads are served from there", cold.Active)
	case HotRestoring:
		fmt.Fprintf(&b, "being restored from Filecoin: %d blocks, %d bytes so far", d.Blocks, d.Bytes)
	case HotGaveUp:
		b.WriteString("gave up")
	}
	if d.Reason != "" {
		b.WriteString("; ")
		b.WriteString(d.Reason)
	}
	if d.Hot.waits() && d.Attempts > 0 {
		fmt.Fprintf(&b, "; %d tries, next at %s", d.Attempts, d.NextAt.UTC().Format(time.RFC3339))
	}
	return b.String()
}
