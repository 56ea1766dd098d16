package layertest

import "archive/tar"

// plain is what is in every layer: the reference of a test that fails everywhere.
func plain() []Case {
	return []Case{{
		Name: "plain",
		Layers: stack(
			layer(
				dir("etc"), file("etc/hosts", "127.0.0.1\n"), file("etc/shadow", "secret\n", mode(0o600), owner(0, 42)),
				dir("usr"), dir("usr/bin"), file("usr/bin/sh", "#!\n", mode(0o755)), hardLink("usr/bin/dash", "usr/bin/sh"),
				symlink("bin", "usr/bin"), dir("tmp", mode(0o1777)),
			),
			layer(dir("etc"), file("etc/motd", "hello\n"), whiteout("etc/shadow"), file("usr/bin/tool", "x", mode(0o755))),
		),
	}}
}

func hardLinks() []Case {
	return []Case{
		{
			Name: "hardlink/within",
			Layers: stack(layer(
				dir("d"), file("a", "one"), hardLink("b", "a"), hardLink("d/c", "/a"), hardLink("d/d", "./d/c"),
				symlink("s", "a"), hardLink("t", "s"), fifo("p"), hardLink("q", "p"),
				device(tar.TypeChar, "n", 1, 3), hardLink("m", "n"),
			)),
		},
		{
			Name:   "hardlink/over-a-file",
			Layers: stack(layer(file("a", "one"), file("b", "two"), hardLink("b", "a"), hardLink("b", "a"))),
		},
		{
			Name:   "hardlink/attributes-of-the-file",
			Layers: stack(layer(file("a", "one", mode(0o640), owner(1, 2)), hardLink("b", "a", mode(0o777), owner(3, 4), xattr("user.no", "1")))),
		},
		{
			Name:   "hardlink/lower",
			Layers: stack(layer(file("a", "one", mode(0o640), owner(1, 2), xattr("user.x", "1"))), layer(hardLink("b", "a"))),
		},
		{
			Name: "hardlink/lower-in-folders",
			Layers: stack(
				layer(dir("usr", mode(0o711)), dir("usr/bin", owner(7, 8)), file("usr/bin/a", "one")),
				layer(dir("opt"), hardLink("opt/b", "usr/bin/a"), hardLink("usr/bin/c", "usr/bin/a")),
			),
		},
		{
			Name:   "hardlink/lower-replaced-after",
			Layers: stack(layer(file("a", "one")), layer(hardLink("b", "a"), file("a", "two"))),
		},
		{
			Name:   "hardlink/lower-replaced-before",
			Layers: stack(layer(file("a", "one")), layer(file("a", "two"), hardLink("b", "a"))),
		},
		{
			Name:   "hardlink/lower-of-two",
			Layers: stack(layer(file("a", "one"), hardLink("b", "a")), layer(hardLink("c", "a"))),
		},
		{
			Name:   "hardlink/lower-of-two-replaced",
			Layers: stack(layer(file("a", "one"), hardLink("b", "a"), hardLink("c", "a")), layer(file("a", "two"))),
		},
		{
			Name:   "hardlink/lower-of-two-hidden",
			Layers: stack(layer(file("a", "one"), hardLink("b", "a"), hardLink("c", "a")), layer(whiteout("a"), file("x", ""))),
		},
		{
			Name:   "hardlink/lower-to-what-is-there",
			Layers: stack(layer(file("a", "one"), hardLink("b", "a")), layer(hardLink("b", "a"))),
		},
		{
			Name: "hardlink/lower-through-links",
			Layers: stack(
				layer(dir("usr"), dir("usr/bin"), file("usr/bin/a", "one"), symlink("bin", "usr/bin"), symlink("sbin", "/bin")),
				layer(hardLink("b", "sbin/a"), hardLink("bin/c", "bin/a")),
			),
		},
		{
			Name:   "hardlink/lower-link-and-device",
			Layers: stack(layer(symlink("s", "nowhere"), device(tar.TypeBlock, "b", 8, 1)), layer(hardLink("t", "s"), hardLink("c", "b"))),
		},
		{
			Name: "hardlink/two-layers-down",
			Layers: stack(
				layer(file("a", "one")), layer(file("x", "two")),
				layer(hardLink("b", "a"), hardLink("y", "x")), layer(hardLink("c", "b"), whiteout("a")),
			),
		},
	}
}

// throughLinks are entries on whose way there is a link.
func throughLinks() []Case {
	usr := []entry{dir("usr", mode(0o711)), dir("usr/bin", owner(5, 6)), file("usr/bin/a", "one")}
	return []Case{
		{
			Name:   "through/lower",
			Layers: stack(layer(append(usr, symlink("bin", "usr/bin"))...), layer(file("bin/b", "two"))),
		},
		{
			Name:   "through/lower-absolute",
			Layers: stack(layer(append(usr, symlink("bin", "/usr/bin"))...), layer(file("bin/b", "two"), dir("bin/d"), file("bin/d/e", ""))),
		},
		{
			Name: "through/lower-chain",
			Layers: stack(
				layer(append(usr, dir("a"), symlink("a/up", "../usr"), symlink("first", "a/up/../second"), symlink("second", "/a/up/bin"))...),
				layer(file("first/b", "two"), file("a/up/c", "three")),
			),
		},
		{
			Name: "through/lower-out-of-the-root",
			Layers: stack(
				layer(append(usr, symlink("out", "../../../../usr/bin"))...),
				layer(file("out/b", "two")),
			),
		},
		{
			Name:   "through/same-layer",
			Layers: stack(layer(append(usr, symlink("bin", "usr/bin"), file("bin/b", "two"), symlink("sbin", "/bin"), hardLink("sbin/c", "bin/a"))...)),
		},
		{
			Name: "through/same-layer-over-lower",
			Layers: stack(
				layer(usr...),
				layer(symlink("bin", "usr/bin"), file("bin/b", "two"), dir("bin/d", mode(0o700))),
			),
		},
		{
			Name: "through/to-a-missing-folder",
			Layers: stack(
				layer(symlink("lib", "usr/lib")),
				layer(dir("usr"), file("lib/a", "one")),
			),
			TarDiffers: "it makes no folder at the end of a link",
		},
		{
			Name:   "through/whiteout",
			Layers: stack(layer(append(usr, symlink("bin", "usr/bin"))...), layer(whiteout("bin/a"), file("bin/b", "two"))),
		},
		{
			Name:   "through/opaque",
			Layers: stack(layer(append(usr, symlink("bin", "/usr/bin"))...), layer(opaque("bin"), file("bin/b", "two"))),
		},
		{
			Name:   "through/link-hidden",
			Layers: stack(layer(append(usr, symlink("bin", "usr/bin"))...), layer(whiteout("bin"), dir("bin"), file("bin/b", "two"))),
		},
	}
}
