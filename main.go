// Command mailnode is a replicated mail store: see `mailnode help`.
package main

import (
	"os"

	"mailnode/node"
	"mailnode/node/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, node.Run))
}
