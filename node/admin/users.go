package admin

import (
	"context"
	"fmt"
	"net/http"

	"mailnode/storage/slot"
)

// NamedUser is an order about one account. By is filled in by the server.
type NamedUser struct {
	Address slot.Address `json:"address"`
	By      string       `json:"-"`
}

// UndeleteUser brings back a deleted account, or what was removed from a living
// one. By is filled in by the server.
type UndeleteUser struct {
	Address slot.Address `json:"address"`
	SinceS  int64        `json:"since_s,omitempty"` // removed in the last so many seconds of slot clock; 0: all that is kept
	Mailbox string       `json:"mailbox,omitempty"` // in this one, or it itself; "": everywhere
	By      string       `json:"-"`
}

// Undeleted is what came back.
type Undeleted struct {
	Account   bool     `json:"account,omitempty"` // the whole account, as it was
	Messages  int      `json:"messages"`          // under new UIDs
	Gone      int      `json:"gone,omitempty"`    // of those asked for: no body is left
	Mailboxes []string `json:"mailboxes"`         // names that they have now
}

// SetQuota changes a quota. By is filled in by the server.
type SetQuota struct {
	Address    slot.Address `json:"address"`
	QuotaBytes int64        `json:"quota_bytes"` // 0: no limit
	By         string       `json:"-"`
}

// SetDisabled keeps a user out, or lets him in again. By is filled in by the server.
type SetDisabled struct {
	Address  slot.Address `json:"address"`
	Disabled bool         `json:"disabled"`
	By       string       `json:"-"`
}

// DeletedUsers lists the deleted users that can be brought back.
func (c *Client) DeletedUsers(ctx context.Context) (u Users, err error) {
	return u, c.get(ctx, "/v1/users?deleted=1", &u)
}

// DeleteUser makes an account unreachable; it can be brought back for a while.
func (c *Client) DeleteUser(ctx context.Context, r NamedUser) error {
	return c.post(ctx, "/v1/users/delete", r, nil)
}

// EraseUser forgets a deleted account for good.
func (c *Client) EraseUser(ctx context.Context, r NamedUser) error {
	return c.post(ctx, "/v1/users/erase", r, nil)
}

// UndeleteUser brings back what was removed. Nothing to bring back: ExitNothing.
func (c *Client) UndeleteUser(ctx context.Context, r UndeleteUser) (u Undeleted, err error) {
	return u, c.post(ctx, "/v1/users/undelete", r, &u)
}

// SetQuota changes a quota.
func (c *Client) SetQuota(ctx context.Context, r SetQuota) error {
	return c.post(ctx, "/v1/users/quota", r, nil)
}

// SetDisabled keeps a user out, or lets him in again.
func (c *Client) SetDisabled(ctx context.Context, r SetDisabled) error {
	return c.post(ctx, "/v1/users/disabled", r, nil)
}

// removalRoutes are those of users who go and come back.
func (s *Server) removalRoutes(mux *http.ServeMux) {
	named := func(what string, do func(ctx context.Context, q NamedUser) error) http.HandlerFunc {
		return change(s, what, requestTimeout, func(ctx context.Context, q NamedUser, by string) (struct{}, error) {
			a, err := address(string(q.Address))
			if err != nil {
				return struct{}{}, err
			}
			return struct{}{}, do(ctx, NamedUser{Address: a, By: by})
		})
	}
	mux.Handle("POST /v1/users/delete", named("delete user", s.backend.Users.Delete))
	mux.Handle("POST /v1/users/erase", named("erase user", s.backend.Users.Erase))
	mux.Handle("POST /v1/users/undelete", change(s, "undelete", confirmTimeout, func(ctx context.Context, q UndeleteUser, by string) (Undeleted, error) {
		a, err := address(string(q.Address))
		if err != nil {
			return Undeleted{}, err
		}
		if q.SinceS < 0 {
			return Undeleted{}, &Error{Text: fmt.Sprintf("undelete %q: since %d s: want a time that has passed", a, q.SinceS), Exit: ExitUsage}
		}
		q.Address, q.By = a, by
		got, err := s.backend.Users.Undelete(ctx, q)
		got.Mailboxes = orEmpty(got.Mailboxes)
		return got, err
	}))
	mux.Handle("POST /v1/users/quota", change(s, "set quota", requestTimeout, func(ctx context.Context, q SetQuota, by string) (struct{}, error) {
		a, err := address(string(q.Address))
		if err != nil {
			return struct{}{}, err
		}
		if q.QuotaBytes < 0 {
			return struct{}{}, &Error{Text: fmt.Sprintf("set quota of %q: a quota cannot be negative", a), Exit: ExitUsage}
		}
		q.Address, q.By = a, by
		return struct{}{}, s.backend.Users.SetQuota(ctx, q)
	}))
	mux.Handle("POST /v1/users/disabled", change(s, "disable or enable user", requestTimeout, func(ctx context.Context, q SetDisabled, by string) (struct{}, error) {
		a, err := address(string(q.Address))
		if err != nil {
			return struct{}{}, err
		}
		q.Address, q.By = a, by
		return struct{}{}, s.backend.Users.SetDisabled(ctx, q)
	}))
}
