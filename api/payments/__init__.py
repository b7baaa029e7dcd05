"""Payment providers: plug-ins behind one Protocol. Nothing of a provider is imported unless it is configured."""
