"""One experiment a module, by whose name the command line knows it; settings that several share
are in modules with an underscore before their names."""
