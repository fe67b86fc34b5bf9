// Package chain reaches Filecoin through a Lotus node: it is deals.Chain over lotus' JSON-RPC on a websocket.
//
// It owns the connection, the checks that make a node believable, what is remembered per tipset, and the reading of the
// market actor's state tree. It must not know what a deal is wanted for, nor keep anything that must survive: after a
// restart it knows nothing and asks again.
//
// # Invariants
//
//   - An error means that nothing is known. "There is none" is said only where the node says so in a way that nothing
//     else can be mistaken for: an actor by the typed error, a deal by its text and by the state tree, where the node
//     serves that.
//   - Every call of a connection goes to the node that was checked when the connection was made: network, genesis,
//     wallet (it signs a probe), and that the last final tipset seen is on its chain. A lost connection is never
//     repaired under calls that run; it is made again, and checked again.
//   - A node whose head is too old, or below a height that was final, answers nothing: every method returns an error
//     that wraps deals.ErrChain with the reason.
//   - What is final never becomes less: a tipset is taken as final only if the last one is its ancestor.
//   - Absent answers (JSON null) are errors, except where Lotus means "none" by them.
//   - Objects of the state tree are taken only if they hash to their CID.
//
// # Decisions
//
//   - One websocket instead of HTTP requests: a connection is with one node, behind whatever proxy, so that what was
//     checked stays true; and only it carries ChainNotify.
//   - go-jsonrpc's own reconnecting is off. It would go on with another node unchecked, ends subscriptions anyway, and
//     leaves calls waiting that a node never answers; here each call has a deadline, and a connection with too many
//     calls left hanging is given up.
//   - The surface that we use is the struct node, with pointers as results so that null is seen. A test compares it
//     with lotus' own API.
//   - Active deals are watched by comparing nodes of the market's States AMT by CID (see Changed). Layouts older than
//     actors v13, or newer than this build knows, are asked deal by deal instead.
//   - Of the earlier tree only links are compared, never what is in its leaves: that all deals asked about were active
//     in it is the caller's promise. It halves what a round reads where nothing is kept from the one before.
package chain
