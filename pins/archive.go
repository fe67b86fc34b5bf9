package pins

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

// An Archive keeps cold copies of DAGs; it calls Service.Archived when it changes how a wish stands by itself. A wish is a DAG under terms that Terms has recorded; pins that agree in both
// share it. The methods that take a context of a transaction join it: what they write and what the caller writes is
// committed together or not at all. All methods may be called concurrently.
type Archive interface {
	// Terms records terms and returns their id, always the same for equal terms. *deals.UnmetError: they can never be
	// met here as things stand.
	Terms(ctx context.Context, t deals.Terms) (deals.TermsID, error)

	// Record does the same without asking whether they can be met.
	Record(ctx context.Context, t deals.Terms) (deals.TermsID, error)

	// Want asks for the cold copies of wishes, of DAGs that are all held hot, or all not, and records which. What is
	// wanted already stays so.
	Want(ctx context.Context, held bool, wishes ...deals.Wish) error

	// Unwant says that no pin asks for them any more. Wishes that are not known are no error.
	Unwant(ctx context.Context, wishes ...deals.Wish) error

	// Held says that a DAG is held hot from now on, or no longer, under whatever terms it is wanted.
	Held(ctx context.Context, root cid.Cid, held bool) error

	// Standings tells how wishes stand, at most MaxStandings at a time; those that are not known are left out.
	Standings(ctx context.Context, wishes []deals.Wish) (map[deals.Wish]deals.Standing, error)
}

// MaxStandings is the most wishes that Standings is asked for: the longest page of a list.
const MaxStandings = 1000

// Undecided are the terms of a pin that came when there was no archive. It gets the service's own terms as soon as there
// is one.
const Undecided deals.TermsID = -1

// Uncopied are the terms of a pin of which no cold copies are wanted.
const Uncopied deals.TermsID = 0
