package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (a *app) version() *cobra.Command {
	return a.reads(a.verb("version", nil, "The release of this program", func(context.Context, []string) error {
		v := struct {
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		return a.show(v, func() string { return fmt.Sprintf("mailnode %s (%s, %s)\n", v.Version, v.Go, v.Platform) })
	}))
}
