package admin

import (
	"context"
	"net/http"

	"mailnode/storage/slot"
)

// UpgradeRequest raises the cluster's feature level. By is filled in by the server.
type UpgradeRequest struct {
	From slot.FeatureLevel `json:"from"` // the one that the person has seen
	To   slot.FeatureLevel `json:"to"`
	By   string            `json:"-"`
}

// Upgrade raises the feature level; it is refused while a member is too old.
func (c *Client) Upgrade(ctx context.Context, r UpgradeRequest) error {
	return c.post(ctx, "/v1/upgrade", r, nil)
}

func (s *Server) upgradeRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/upgrade", change(s, "raise feature level", requestTimeout, func(ctx context.Context, q UpgradeRequest, by string) (struct{}, error) {
		q.By = by
		return struct{}{}, s.backend.Cluster.Upgrade(ctx, q)
	}))
}
