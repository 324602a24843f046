// The page /account: asks the API of this server, and the browser for passkeys.
//
// The session is kept as long as the tab. Whatever the server tells is put in as text.
'use strict';

const at = (id) => document.getElementById(id);
const STORED = 'sluice-session';
let typed = null;

class Refused extends Error {
  constructor(problem) {
    super(problem.detail || 'the server does not answer as it should');
    this.code = problem.code;
  }
}

async function api(method, path, body) {
  const headers = {};
  const token = sessionStorage.getItem(STORED);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const request = { method, headers, cache: 'no-store', credentials: 'omit' };
  if (body !== undefined) request.body = JSON.stringify(body);
  const answer = await fetch(`/api/v1/${path}`, request);
  if (answer.status === 204) return null;
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(document);
  return document;
}

function tell(id, text) {
  for (const other of ['problem', 'message']) {
    at(other).hidden = other !== id;
    at(other).textContent = other === id ? text : '';
  }
}

function explain(error) {
  if (error instanceof Refused) return sentence(error.message);
  if (error.name === 'NotAllowedError') return 'No passkey was used: it was cancelled, or took too long.';
  if (error.name === 'InvalidStateError') return 'This device or key has a passkey for you already.';
  if (error.name === 'SecurityError') return 'Your browser makes no passkeys at this address: open the page by the public URL of the server.';
  if (error instanceof TypeError) return 'The server does not answer.';
  return sentence(error.message || String(error));
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`.replace(/\.\.$/, '.');

// Runs what a button or form does, once at a time, and tells what went wrong.
function guard(element, action) {
  const kind = element.tagName === 'FORM' ? 'submit' : 'click';
  element.addEventListener(kind, async (event) => {
    event.preventDefault();
    const buttons = kind === 'submit' ? element.querySelectorAll('button') : [element];
    buttons.forEach((button) => { button.disabled = true; });
    tell(null);
    try {
      await action(element);
    } catch (error) {
      if (error.code === 'unauthorized') leave();
      tell('problem', explain(error));
    } finally {
      buttons.forEach((button) => { button.disabled = false; });
    }
  });
}

function browserKnows() {
  if (window.PublicKeyCredential && PublicKeyCredential.parseCreationOptionsFromJSON) return;
  throw new Error('this browser is too old for passkeys, or the page was not opened by https');
}

async function made(options) {
  browserKnows();
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
  return (await navigator.credentials.create({ publicKey })).toJSON();
}

async function used(options) {
  browserKnows();
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
  return (await navigator.credentials.get({ publicKey })).toJSON();
}

function show(section) {
  for (const id of ['sign-in', 'second', 'account']) at(id).hidden = id !== section;
  if (section !== 'account') at('codes').hidden = true;
}

function leave() {
  sessionStorage.removeItem(STORED);
  typed = null;
  document.querySelectorAll('form').forEach((form) => form.reset());
  at('passkeys').replaceChildren();
  at('code-list').replaceChildren();
  show('sign-in');
}

async function enter(session) {
  typed = null;
  document.querySelectorAll('form').forEach((form) => form.reset());
  sessionStorage.setItem(STORED, session.token);
  await showAccount();
}

async function byPasskey(body) {
  const begun = await api('POST', 'passkey-logins', body);
  const credential = await used(begun.options);
  await enter(await api('POST', 'passkey-logins/finish', { login: begun.login, credential }));
}

async function showAccount() {
  const me = await api('GET', 'me');
  at('who').textContent = me.login;
  at('first').hidden = !me.first;
  at('first').textContent = me.first === 'change-password'
    ? 'Somebody else has set your password. Change it first, by the command: sluice user password'
    : 'Your role needs a second factor: add a passkey.';
  show('account');
  const waits = me.first === 'change-password';
  at('add-form').hidden = waits;
  list(waits ? [] : await api('GET', 'me/passkeys'));
}

const day = (ms) => new Date(ms).toLocaleDateString(undefined, { dateStyle: 'medium' });

function facts(passkey) {
  const used = passkey.used_ms ? `last used ${day(passkey.used_ms)}` : 'never used';
  const kept = passkey.backed_up ? 'backed up' : 'on one device';
  const alone = passkey.passwordless ? 'good without a password' : 'good beside a password';
  return `Added ${day(passkey.created_ms)}, ${used}; ${kept}; ${alone}.`;
}

function element(name, properties, ...inside) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
}

function list(passkeys) {
  at('none').hidden = passkeys.length > 0;
  at('passkeys').replaceChildren(...passkeys.map((passkey) => {
    const button = (text, action) => {
      const made = element('button', { type: 'button', className: 'plain', textContent: text });
      made.setAttribute('aria-label', `${text} ${passkey.name}`);
      made.addEventListener('click', action);
      return made;
    };
    const actions = element('div', { className: 'actions' },
      button('Rename', () => openRename(passkey)), button('Remove', () => openRemove(passkey)));
    const name = element('span', { className: 'name', textContent: passkey.name });
    const line = element('div', { className: 'row' }, name, actions);
    const more = element('p', { className: 'facts', textContent: facts(passkey) });
    return element('li', {}, line, more);
  }));
}

function openRename(passkey) {
  at('rename').dataset.id = passkey.id;
  at('new-name').value = passkey.name;
  at('rename').showModal();
}

function openRemove(passkey) {
  at('remove').dataset.id = passkey.id;
  at('remove-name').textContent = passkey.name;
  at('remove-form').reset();
  at('remove').showModal();
}

guard(at('passwordless'), () => byPasskey({}));

guard(at('password-form'), async () => {
  const tried = { login: at('login').value, password: at('password').value };
  try {
    await enter(await api('POST', 'sessions', tried));
  } catch (error) {
    if (error.code !== 'code-needed' && error.code !== 'passkey-needed') throw error;
    typed = tried;
    show('second');
    (error.code === 'passkey-needed' ? at('second-passkey') : at('code')).focus();
  }
});

guard(at('second-passkey'), () => byPasskey(typed));

guard(at('code-form'), async () => {
  await enter(await api('POST', 'sessions', { ...typed, code: at('code').value }));
});

guard(at('second-back'), async () => leave());

guard(at('sign-out'), async () => {
  await api('DELETE', 'sessions/current');
  leave();
});

guard(at('add-form'), async (form) => {
  const name = at('name').value.trim();
  const begun = await api('POST', 'me/passkeys', { password: at('add-password').value });
  const credential = await made(begun.options);
  const { registration } = begun;
  const done = await api('POST', 'me/passkeys/finish', { registration, name, credential });
  form.reset();
  if (done.recovery_codes.length > 0) {
    const lines = done.recovery_codes.map((code) => element('li', { textContent: code }));
    at('code-list').replaceChildren(...lines);
    at('codes').hidden = false;
  }
  await showAccount();
  tell('message', `${name} is added.`);
});

guard(at('codes-kept'), async () => {
  at('codes').hidden = true;
  at('code-list').replaceChildren();
});

guard(at('rename-form'), async () => {
  const { id } = at('rename').dataset;
  at('rename').close();
  await api('PUT', `me/passkeys/${id}`, { name: at('new-name').value.trim() });
  await showAccount();
});

guard(at('remove-form'), async (form) => {
  const { id } = at('remove').dataset;
  const body = { password: at('remove-password').value };
  const code = at('remove-code').value.trim();
  at('remove').close();
  form.reset();
  if (code) {
    body.code = code;
  } else {
    const asked = await api('POST', 'me/passkeys/challenge');
    body.passkey = { challenge: asked.challenge, credential: await used(asked.options) };
  }
  await api('POST', `me/passkeys/${id}/remove`, body);
  await showAccount();
  tell('message', 'The passkey is removed.');
});

document.querySelectorAll('.cancel').forEach((button) => {
  button.addEventListener('click', () => button.closest('dialog').close());
});

if (sessionStorage.getItem(STORED)) {
  showAccount().catch((error) => {
    leave();
    if (error.code !== 'unauthorized') tell('problem', explain(error));
  });
} else {
  show('sign-in');
}
