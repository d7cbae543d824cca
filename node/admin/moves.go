package admin

import (
	"context"
	"net/http"
	"net/url"

	"mailnode/storage/slot"
)

// Moving plans and records moves of copies between nodes.
type Moving interface {
	// Moves plans what would even the site out, or empty a node, and lists what is under
	// way. It changes nothing.
	Moves(ctx context.Context, empty slot.NodeName) (Moves, error)
	// StartMoves records moves as they were planned: all, or none when something has
	// changed since.
	StartMoves(ctx context.Context, r StartMoves) error
	// StopMoves gives up what is under way. It refuses when there is nothing.
	StopMoves(ctx context.Context, r StopMoves) error
}

// Moves is the answer of `slot rebalance --dry-run`.
type Moves struct {
	Planned  []Move    `json:"planned"`
	UnderWay []Move    `json:"under_way"`
	Cannot   []slot.ID `json:"cannot"`       // should be moved, and no node can take a copy
	Bytes    int64     `json:"bytes"`        // to copy for what is planned
	AboutS   int64     `json:"about_s"`      // how long that takes, at RatePerS into each node
	RatePerS int64     `json:"rate_bytes_s"` // bytes
}

// Move is one slot's copy that goes to another node, or whose master is to change.
type Move struct {
	Slot  slot.ID       `json:"slot"`
	Epoch slot.Epoch    `json:"epoch"`
	To    slot.NodeName `json:"to,omitempty"`    // gets a copy; "": none is made
	From  slot.NodeName `json:"from,omitempty"`  // loses its copy; "": the slot keeps one more
	Lead  slot.NodeName `json:"lead,omitempty"`  // is to be master, which a person confirms
	Bytes int64         `json:"bytes,omitempty"` // to copy
	State string        `json:"state,omitempty"` // of one under way, in words
}

// StartMoves records planned moves. By is filled in by the server.
type StartMoves struct {
	Moves []Move `json:"moves"`
	By    string `json:"-"`
}

// StopMoves gives up all moves. By is filled in by the server.
type StopMoves struct {
	By string `json:"-"`
}

// Moves plans moves; empty names a node that is to be emptied.
func (c *Client) Moves(ctx context.Context, empty slot.NodeName) (m Moves, err error) {
	return m, c.get(ctx, "/v1/moves?empty="+url.QueryEscape(string(empty)), &m)
}

// StartMoves records moves as they were planned.
func (c *Client) StartMoves(ctx context.Context, moves []Move) error {
	return c.post(ctx, "/v1/moves", StartMoves{Moves: moves}, nil)
}

// StopMoves gives up all moves.
func (c *Client) StopMoves(ctx context.Context) error {
	return c.post(ctx, "/v1/moves/stop", StopMoves{}, nil)
}

func (s *Server) moveRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/moves", read(s, func(ctx context.Context, r *http.Request) (Moves, error) {
		m, err := s.backend.Moving.Moves(ctx, slot.NodeName(r.URL.Query().Get("empty")))
		m.Planned, m.UnderWay, m.Cannot = orEmpty(m.Planned), orEmpty(m.UnderWay), orEmpty(m.Cannot)
		return m, err
	}))
	mux.Handle("POST /v1/moves", change(s, "move copies", requestTimeout, func(ctx context.Context, q StartMoves, by string) (struct{}, error) {
		q.By = by
		return struct{}{}, s.backend.Moving.StartMoves(ctx, q)
	}))
	mux.Handle("POST /v1/moves/stop", change(s, "stop moves", requestTimeout, func(ctx context.Context, _ StopMoves, by string) (struct{}, error) {
		return struct{}{}, s.backend.Moving.StopMoves(ctx, StopMoves{By: by})
	}))
}
