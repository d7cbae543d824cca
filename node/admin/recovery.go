package admin

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"mailnode/storage/slot"
)

// Recovery is what `cluster recover` would do on the node that was asked.
type Recovery struct {
	Cluster    string          `json:"cluster"`
	Node       slot.NodeName   `json:"node"`
	Generation slot.Generation `json:"generation"` // that there is now; the recovery makes the next one
	Survivors  []slot.NodeName `json:"survivors"`  // who goes on, Node among them
	Lost       []LostNode      `json:"lost"`
	Serve      []slot.ID       `json:"serve"`      // their master is a survivor
	Propose    []slot.ID       `json:"propose"`    // their master is lost, and a survivor has a copy
	NoCopy     []slot.ID       `json:"no_copy"`    // no survivor has a copy
	RaftIndex  uint64          `json:"raft_index"` // up to which Node knows what was recorded
	Unknown    []slot.NodeName `json:"unknown"`    // named as survivors and not heard: what they know is not known
	Text       string          `json:"text"`
}

// LostNode is a member that a recovery leaves behind.
type LostNode struct {
	Node    slot.NodeName `json:"node"`
	SilentS int64         `json:"silent_s"`
}

// RecoverRequest recovers the cluster on the node that is asked. By is filled in by the
// server.
type RecoverRequest struct {
	With       []slot.NodeName `json:"with,omitempty"` // survivors that are not heard now
	Generation slot.Generation `json:"generation"`     // as the person has seen it
	By         string          `json:"-"`
}

// Recovered says how a recovery ended.
type Recovered struct {
	Generation slot.Generation `json:"generation"`
	Text       string          `json:"text"`
}

// Recovering recovers a cluster whose majority is lost for good.
type Recovering interface {
	// Recovery says what would be done, or refuses. with are survivors that are not
	// heard now.
	Recovery(ctx context.Context, with []slot.NodeName) (Recovery, error)
	Recover(ctx context.Context, r RecoverRequest) (Recovered, error)
}

// Recovery asks what a recovery would do.
func (c *Client) Recovery(ctx context.Context, with []slot.NodeName) (r Recovery, err error) {
	var names []string
	for _, n := range with {
		names = append(names, string(n))
	}
	return r, c.get(ctx, "/v1/recovery?with="+url.QueryEscape(strings.Join(names, ",")), &r)
}

// Recover does it.
func (c *Client) Recover(ctx context.Context, r RecoverRequest) (out Recovered, err error) {
	return out, c.post(ctx, "/v1/recovery", r, &out)
}

func (s *Server) recoveryRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/recovery", read(s, func(ctx context.Context, r *http.Request) (Recovery, error) {
		var with []slot.NodeName
		for name := range strings.SplitSeq(r.URL.Query().Get("with"), ",") {
			if name != "" {
				with = append(with, slot.NodeName(name))
			}
		}
		out, err := s.backend.Recovering.Recovery(ctx, with)
		out.Survivors, out.Lost, out.Unknown = orEmpty(out.Survivors), orEmpty(out.Lost), orEmpty(out.Unknown)
		out.Serve, out.Propose, out.NoCopy = orEmpty(out.Serve), orEmpty(out.Propose), orEmpty(out.NoCopy)
		return out, err
	}))
	mux.Handle("POST /v1/recovery", change(s, "recover cluster", requestTimeout, func(ctx context.Context, q RecoverRequest, by string) (Recovered, error) {
		q.By = by
		return s.backend.Recovering.Recover(ctx, q)
	}))
}
