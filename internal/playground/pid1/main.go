// Command pid1 is the first process of a playground's machine, and what starts it.
package main

import (
	"fmt"
	"os"

	"yurt/internal/playground/machine"
)

func main() {
	var err error
	switch args := os.Args; {
	case len(args) >= 4 && args[1] == "launch":
		var owner *os.File
		if len(args) == 5 && args[4] == "owned" {
			owner = os.NewFile(3, "owner")
		}
		err = machine.Launch(args[2], args[3], owner)
	case len(args) == 3 && os.Getpid() == 1:
		err = machine.Run(args[1], args[2])
	default:
		err = fmt.Errorf("usage: pid1 launch ID DIRECTORY [owned]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pid1:", err)
		os.Exit(1)
	}
}
