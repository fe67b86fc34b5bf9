package pins

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/frostpin/frostpin/spec"
)

// StatusOf derives the API's status. Nothing else decides it: the copy in a pin's row is written by this function in
// the transaction that changes the root.
func StatusOf(hot Hot) spec.Status {
	switch hot {
	case HotQueued, HotReleasing: // releasing: a pin that arrives meanwhile moves the root back to queued
		return spec.Queued
	case HotFetching:
		return spec.Pinning
	case HotHeld:
		return spec.Pinned
	case HotGaveUp:
		return spec.Failed
	}
	return spec.Queued
}

// Status is the pin's status in the API.
func (p Pin) Status() spec.Status { return StatusOf(p.Root.Hot) }

// Info is what the API tells about the pin beyond its status: `status_details`, `hot_status`, `dag_size` and
// `dag_blocks` once known, and `origins_dropped`. Never nil.
func (p Pin) Info() map[string]string {
	r := p.Root
	info := map[string]string{"hot_status": string(r.Hot), "status_details": r.details()}
	if r.Hot == HotHeld {
		info["dag_size"] = strconv.FormatInt(r.Bytes, 10)
		info["dag_blocks"] = strconv.FormatInt(r.Blocks, 10)
	}
	if p.Dropped > 0 {
		info["origins_dropped"] = strconv.Itoa(p.Dropped)
	}
	return info
}

// details says in words how the DAG stands.
func (r Root) details() string {
	var b strings.Builder
	switch r.Hot {
	case HotQueued, HotReleasing:
		b.WriteString("waiting for the root block")
	case HotFetching:
		fmt.Fprintf(&b, "fetching: %d blocks, %d bytes so far", r.Blocks, r.Bytes)
	case HotHeld:
		b.WriteString("held: the whole DAG is stored and verified")
	case HotGaveUp:
		b.WriteString("gave up")
	}
	if r.Reason != "" {
		b.WriteString("; ")
		b.WriteString(r.Reason)
	}
	if (r.Hot == HotQueued || r.Hot == HotFetching) && r.Attempts > 0 {
		fmt.Fprintf(&b, "; %d tries, next at %s", r.Attempts, r.NextAt.UTC().Format(time.RFC3339))
	}
	return b.String()
}
